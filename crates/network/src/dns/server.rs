//! The DNS server: UDP datagrams and TCP connections in, answers out, everything bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record};
use rand::seq::SliceRandom;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::forward::Forwarder;
use super::records::{Answer, Cluster, TTL_SECONDS, Zone};
use super::{DnsConfig, DnsError};

/// Queries over UDP in work at once; more are dropped, and their clients ask again.
const UDP_QUERIES_MAX: usize = 1024;
/// TCP connections at once; more wait in the listener's queue.
const TCP_CONNECTIONS_MAX: usize = 256;
/// How long a TCP connection may stay silent.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// The largest datagram that is read.
const QUERY_MAX: usize = 4096;
/// The largest UDP answer to a client that does not say what it can take.
const UDP_ANSWER_DEFAULT: u16 = 512;
/// The largest UDP answer to anybody: fits every usual path without fragments.
const UDP_ANSWER_MAX: u16 = 1232;
/// Names that may stand for one another before the chain is given up.
const ALIASES_MAX: usize = 8;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// One datagram; the answer may have to be cut.
    Udp,
    /// A connection; the answer may have any length.
    Tcp,
}

/// A DNS server that listens.
pub(super) struct Server {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    resolver: Resolver,
}

/// What turns queries into answers.
struct Resolver {
    zone: Zone,
    forwarder: Forwarder,
}

impl Server {
    /// Listens on UDP and TCP.
    pub(super) async fn bind(config: &DnsConfig) -> Result<Self, DnsError> {
        let failed = |source| DnsError::Listen { address: config.address, source };
        let mut domain =
            Name::from_ascii(&config.cluster_domain).map_err(|_| DnsError::Domain(config.cluster_domain.clone()))?;
        domain.set_fqdn(true);
        let tcp = TcpListener::bind(config.address).await.map_err(failed)?;
        // With port 0 both transports must come to the same port.
        let address = tcp.local_addr().map_err(failed)?;
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        let zone = Zone::new(domain, config.range, config.address.ip());
        // A resolver file that names this very server would make every foreign name a loop.
        let resolvers = config.resolvers.iter().copied().filter(|resolver| *resolver != address).collect();
        Ok(Self { udp: Arc::new(udp), tcp, resolver: Resolver { zone, forwarder: Forwarder::new(resolvers) } })
    }

    /// The address listened on.
    #[cfg(test)]
    pub(super) fn address(&self) -> SocketAddr {
        self.tcp.local_addr().unwrap()
    }

    /// Serves until stopped; what is in work then is dropped, and clients ask again.
    pub(super) async fn run<C: Cluster>(self, cluster: Arc<C>, stop: CancellationToken) {
        let Self { udp, tcp, resolver } = self;
        let resolver = Arc::new(resolver);
        let (mut queries, mut connections) = (JoinSet::new(), JoinSet::new());
        let mut buffer = vec![0; QUERY_MAX];
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = queries.join_next() => {}
                Some(_) = connections.join_next() => {}
                received = udp.recv_from(&mut buffer) => match received {
                    Ok((length, client)) if queries.len() < UDP_QUERIES_MAX => {
                        let (udp, resolver, cluster) = (Arc::clone(&udp), Arc::clone(&resolver), Arc::clone(&cluster));
                        let query = buffer[..length].to_vec();
                        queries.spawn(async move { answer_datagram(&udp, client, &resolver, &*cluster, &query).await });
                    }
                    Ok((_, client)) => tracing::debug!(%client, "DNS query dropped, too many are in work"),
                    Err(error) => tracing::debug!(%error, "DNS datagram lost"),
                },
                accepted = tcp.accept(), if connections.len() < TCP_CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => {
                        let (resolver, cluster) = (Arc::clone(&resolver), Arc::clone(&cluster));
                        connections.spawn(async move { serve_connection(stream, &resolver, &*cluster).await });
                    }
                    Err(error) => {
                        tracing::debug!(%error, "DNS connection lost");
                        // Out of descriptors, most likely: trying again at once would spin.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
    }
}

async fn answer_datagram(
    udp: &UdpSocket,
    client: SocketAddr,
    resolver: &Resolver,
    cluster: &impl Cluster,
    query: &[u8],
) {
    if let Some(answer) = resolver.answer(cluster, query, Transport::Udp).await
        && let Err(error) = udp.send_to(&answer, client).await
    {
        tracing::debug!(%client, %error, "DNS answer lost");
    }
}

async fn serve_connection(mut stream: TcpStream, resolver: &Resolver, cluster: &impl Cluster) {
    let exchange = async |stream: &mut TcpStream| {
        let length = stream.read_u16().await.ok()?;
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await.ok()?;
        let answer = resolver.answer(cluster, &query, Transport::Tcp).await?;
        let length = u16::try_from(answer.len()).ok()?;
        stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat()).await.ok()
    };
    while let Ok(Some(())) = tokio::time::timeout(TCP_IDLE, exchange(&mut stream)).await {}
}

impl Resolver {
    /// The answer to a query; nothing for what is not a query at all.
    async fn answer(&self, cluster: &impl Cluster, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let query = match Message::from_vec(packet) {
            Ok(query) if query.metadata.message_type == MessageType::Query => query,
            // Answering an answer could start an endless exchange between two servers.
            Ok(_) => return None,
            Err(_) => {
                let id = u16::from_be_bytes(packet.get(..2)?.try_into().ok()?);
                let is_query = packet.get(2)? & 0x80 == 0;
                let refusal = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
                return is_query.then(|| refusal.to_vec().ok()).flatten();
            }
        };
        let mut response = Message::response(query.metadata.id, query.metadata.op_code);
        response.metadata.recursion_desired = query.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        response.add_queries(query.queries.iter().cloned());
        match query.queries.as_slice() {
            _ if query.metadata.op_code != OpCode::Query => response.metadata.response_code = ResponseCode::NotImp,
            [question] => match self.zone.answer(cluster, question.name(), question.query_type()) {
                Answer::Foreign => match self.forwarder.ask(packet, transport).await {
                    Some(answer) => return Some(answer),
                    None => response.metadata.response_code = ResponseCode::ServFail,
                },
                answer => self.fill(cluster, &mut response, question, answer, transport).await,
            },
            _ => response.metadata.response_code = ResponseCode::FormErr,
        }
        let limit = query.edns.as_ref().map_or(UDP_ANSWER_DEFAULT, Edns::max_payload);
        if query.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_ANSWER_MAX);
            response.set_edns(edns);
        }
        let limit = limit.clamp(UDP_ANSWER_DEFAULT, UDP_ANSWER_MAX);
        let bytes = response.to_vec().ok()?;
        if transport == Transport::Udp && bytes.len() > usize::from(limit) {
            return response.truncate().to_vec().ok();
        }
        Some(bytes)
    }

    /// Writes the answer from our zone into a response, following aliases.
    async fn fill(
        &self,
        cluster: &impl Cluster,
        response: &mut Message,
        question: &Query,
        answer: Answer,
        transport: Transport,
    ) {
        response.metadata.authoritative = true;
        let (mut name, mut answer) = (question.name().clone(), answer);
        for _ in 0..ALIASES_MAX {
            match answer {
                Answer::Records(mut records, additional) => {
                    // Clients take the first; the order spreads them.
                    records.shuffle(&mut rand::rng());
                    response.add_answers(records);
                    response.add_additionals(additional);
                    return;
                }
                Answer::NoData | Answer::NoSuchName => {
                    if answer == Answer::NoSuchName {
                        response.metadata.response_code = ResponseCode::NXDomain;
                    }
                    response.add_authority(self.zone.soa());
                    return;
                }
                Answer::NotReady => {
                    response.metadata.response_code = ResponseCode::ServFail;
                    return;
                }
                Answer::Foreign => {
                    self.fill_foreign(response, &name, question, transport).await;
                    return;
                }
                Answer::Alias(target) => {
                    let alias = RData::CNAME(CNAME(target.clone()));
                    response.add_answer(Record::from_rdata(name, TTL_SECONDS, alias));
                    answer = self.zone.answer(cluster, &target, question.query_type());
                    name = target;
                }
            }
        }
        response.metadata.response_code = ResponseCode::ServFail;
    }

    /// Looks an alias' target up outside: stub resolvers do not follow aliases themselves.
    async fn fill_foreign(&self, response: &mut Message, name: &Name, question: &Query, transport: Transport) {
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(name.clone(), question.query_type()));
        let answer = match query.to_vec() {
            Ok(packet) => self.forwarder.ask(&packet, transport).await,
            Err(_) => None,
        };
        match answer.and_then(|answer| Message::from_vec(&answer).ok()) {
            Some(answer) => {
                response.metadata.response_code = answer.metadata.response_code;
                response.metadata.truncation = answer.metadata.truncation;
                response.add_answers(answer.answers);
            }
            None => response.metadata.response_code = ResponseCode::ServFail,
        }
    }
}
