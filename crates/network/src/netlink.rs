//! Netlink: messages written and read byte by byte, and the socket they travel over.
//!
//! The kernel handles a netlink request inside `send`, so every answer is already queued when `send` returns. Nothing
//! here waits, and callers on async threads may use it directly; only changes that the kernel itself makes slow
//! (creating and deleting links) belong on a blocking thread.

mod encoder;
mod message;
mod socket;

pub(crate) use encoder::Encoder;
pub(crate) use message::{Attributes, Message, u32_at};
pub(crate) use socket::{Protocol, Socket, in_netns};

/// The message is a request (`NLM_F_REQUEST`).
pub(crate) const REQUEST: u16 = 0x1;
/// The kernel confirms the message (`NLM_F_ACK`).
pub(crate) const ACK: u16 = 0x4;
/// The kernel answers with everything that matches (`NLM_F_DUMP`).
pub(crate) const DUMP: u16 = 0x300;
/// Replace what exists (`NLM_F_REPLACE`).
pub(crate) const REPLACE: u16 = 0x100;
/// Fail when it exists (`NLM_F_EXCL`).
pub(crate) const EXCL: u16 = 0x200;
/// Create what does not exist (`NLM_F_CREATE`).
pub(crate) const CREATE: u16 = 0x400;
/// Append to the list (`NLM_F_APPEND`).
pub(crate) const APPEND: u16 = 0x800;

/// Why a netlink exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused a message.
    #[error("kernel refused to {action}{}", .text.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Refused {
        /// What was asked for.
        action: String,
        /// The error number as an I/O error.
        source: std::io::Error,
        /// The kernel's own explanation, where it gives one.
        text: Option<String>,
    },
    /// A system call on the socket or on a namespace failed.
    #[error("cannot {action}")]
    Io {
        /// What was being done.
        action: String,
        /// The failure.
        source: std::io::Error,
    },
    /// An attribute would be longer than the 16 bits of its length.
    #[error("cannot {action}: an attribute exceeds 65535 bytes")]
    TooLong {
        /// What was asked for.
        action: String,
    },
    /// The kernel's answer does not follow the format.
    #[error("malformed answer to {action}")]
    Malformed {
        /// What was asked for.
        action: String,
    },
}

impl NetlinkError {
    /// The error number with which the kernel refused, if it did.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Io { .. } | Self::TooLong { .. } | Self::Malformed { .. } => None,
        }
    }
}

/// Takes one of the given kernel refusals as success.
pub(crate) fn tolerate(result: Result<(), NetlinkError>, errnos: &[i32]) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.errno().is_some_and(|errno| errnos.contains(&errno)) => Ok(()),
        other => other,
    }
}
