//! A pod's network namespace, for somebody who serves inside it: sockets of the pod's own, and rules that lead the pod's
//! TCP connections to them.
//!
//! ```text
//! outbound (nat output)      new connections of the pod, but to itself and the proxy's own   -> outbound port
//! inbound (nat prerouting)   new connections to the pod, but from the node and to the tunnel -> inbound port
//! own (route output)         answers to connections that the proxy opened under a client's address -> the proxy
//! ```
//!
//! Only packets that open a connection are led elsewhere, so that connections older than the rules go on undisturbed. When
//! rules are withdrawn the chains stay, empty, until [`PodNamespace::forget`]: the kernel stops translating what is
//! established once a namespace has no chain left.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use crate::link::{Links, MarkedLocal};
use crate::netlink::{NetlinkError, tolerate};
use crate::nft::{self, Batch, Compare, Hook, Verdict};
use crate::pod::{POD_LINK, write_sysctl};

const TABLE: &str = "keelson-mesh";
const OUTBOUND: &str = "outbound";
const INBOUND: &str = "inbound";
const OWN: &str = "own";
const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
const PRIORITY_MANGLE: i32 = -150;
const PRIORITY_DNAT: i32 = -100;
/// Connections that the proxy opened under a client's address, and answers to them. Istio's number, as the mark of the
/// proxy's sockets is.
const ANSWERS: MarkedLocal = MarkedLocal { mark: 0x111, table: 100, priority: 100 };

/// Where a pod's connections are led.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capture {
    /// The loopback port for connections that the pod opens.
    pub outbound: u16,
    /// The port for connections that are opened to the pod.
    pub inbound: u16,
    /// The port that is reached as it is: whoever serves there knows whom it speaks to.
    pub tunnel: u16,
    /// The mark of sockets that are left alone.
    pub mark: u32,
    /// The node's address: what it sends (probes, the gateway) is left alone.
    pub node: Ipv4Addr,
}

/// The network namespace of a pod.
#[derive(Debug)]
pub struct PodNamespace {
    path: PathBuf,
    pod: File,
    home: File,
}

impl PodNamespace {
    /// Opens the namespace bound at a path; the process's own is that of the calling thread.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path) -> Result<Self, NetlinkError> {
        let opened = |path: &Path| {
            let failed =
                |source| NetlinkError::Io { action: format!("open network namespace {}", path.display()), source };
            File::open(path).map_err(failed)
        };
        Ok(Self { path: path.to_owned(), pod: opened(path)?, home: opened(Path::new("/proc/thread-self/ns/net"))? })
    }

    /// Runs something on this thread inside the namespace, and comes back. Sockets made inside stay inside. It must not
    /// wait: nothing else runs on this thread meanwhile.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn within<T>(&self, run: impl FnOnce() -> T) -> io::Result<T> {
        setns(&self.pod, CloneFlags::CLONE_NEWNET)?;
        let _home = Home(&self.home);
        Ok(run())
    }

    fn netlink<T>(&self, run: impl FnOnce() -> Result<T, NetlinkError>) -> Result<T, NetlinkError> {
        let failed =
            |source| NetlinkError::Io { action: format!("enter network namespace {}", self.path.display()), source };
        self.within(run).map_err(failed)?
    }

    /// Leads the pod's connections to the proxy from now on. The sockets should be there already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn capture(&self, capture: Capture) -> Result<(), NetlinkError> {
        self.netlink(|| {
            // neighbours on the bridge would reach the pod past its only IPv4 address
            set_ipv6(false)?;
            Links::open()?.take_marked(ANSWERS)?;
            let mut batch = Batch::new(TABLE);
            batch.add_table();
            batch.delete_table();
            batch.add_table();
            chains(&mut batch, capture);
            batch.commit(&nft::socket()?, "capture a pod's connections")
        })
    }

    /// Leads no further connections to the proxy; those that were go on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn release(&self) -> Result<(), NetlinkError> {
        self.netlink(|| {
            let mut batch = Batch::new(TABLE);
            batch.flush_chain(OUTBOUND);
            batch.flush_chain(INBOUND);
            tolerate(batch.commit(&nft::socket()?, "release a pod's connections"), &[libc::ENOENT])?;
            set_ipv6(true)
        })
    }

    /// Removes every trace, once no connection is left that was led to the proxy.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forget(&self) -> Result<(), NetlinkError> {
        self.netlink(|| {
            let mut batch = Batch::new(TABLE);
            batch.delete_table();
            tolerate(batch.commit(&nft::socket()?, "remove the mesh's table"), &[libc::ENOENT])?;
            Links::open()?.leave_marked(ANSWERS)
        })
    }

    /// Whether connections are led to a proxy, or were: a process that is gone may have left it so.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn is_captured(&self) -> Result<bool, NetlinkError> {
        self.netlink(|| Ok(nft::table_handle(&nft::socket()?, TABLE)?.is_some()))
    }
}

fn chains(batch: &mut Batch, capture: Capture) {
    batch.add_chain(OUTBOUND, Some(Hook { kind: "nat", number: OUTPUT, priority: PRIORITY_DNAT }));
    batch.add_rule(OUTBOUND, |rule| rule.mark(Compare::Equal, capture.mark).verdict(Verdict::Accept));
    batch.add_rule(OUTBOUND, |rule| rule.outgoing(Compare::Equal, "lo").verdict(Verdict::Accept));
    batch.add_rule(OUTBOUND, |rule| rule.opens_tcp().redirect(capture.outbound));

    batch.add_chain(INBOUND, Some(Hook { kind: "nat", number: PREROUTING, priority: PRIORITY_DNAT }));
    batch.add_rule(INBOUND, |rule| rule.incoming(Compare::Equal, "lo").verdict(Verdict::Accept));
    let node = crate::Cidr { network: capture.node, prefix: 32 };
    batch.add_rule(INBOUND, |rule| rule.source_in(node).verdict(Verdict::Accept));
    batch.add_rule(INBOUND, |rule| rule.opens_tcp().port_is(capture.tunnel).verdict(Verdict::Accept));
    batch.add_rule(INBOUND, |rule| rule.opens_tcp().redirect(capture.inbound));

    batch.add_chain(OWN, Some(Hook { kind: "route", number: OUTPUT, priority: PRIORITY_MANGLE }));
    batch.add_rule(OWN, |rule| {
        let own = rule.mark(Compare::Equal, capture.mark).outgoing(Compare::Equal, "lo");
        own.set_connection_mark(ANSWERS.mark).verdict(Verdict::Accept);
    });
    batch.add_rule(OWN, |rule| rule.mark(Compare::Equal, capture.mark).verdict(Verdict::Accept));
    batch.add_rule(OWN, |rule| {
        rule.connection_mark(Compare::Equal, ANSWERS.mark).set_mark(ANSWERS.mark);
    });
}

fn set_ipv6(enabled: bool) -> Result<(), NetlinkError> {
    let name = format!("net/ipv6/conf/{POD_LINK}/disable_ipv6");
    // a kernel without IPv6 has nothing to switch
    if !Path::new("/proc/sys").join(&name).exists() {
        return Ok(());
    }
    write_sysctl(&name, if enabled { "0" } else { "1" })
}

/// Brings the thread back when it is dropped, also by a panic.
struct Home<'a>(&'a File);

impl Drop for Home<'_> {
    fn drop(&mut self) {
        if setns(self.0, CloneFlags::CLONE_NEWNET).is_err() {
            // Whatever else runs on this thread would act inside the pod.
            std::process::abort();
        }
    }
}
