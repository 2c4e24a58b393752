//! Asking requests what their guards want to know, before anything else happens to them.

use std::{net::IpAddr, pin::Pin, sync::Arc};

use http::{HeaderName, HeaderValue, Request, StatusCode, header, request::Parts};

use super::{
    answer::{Answer, is_grpc, own, refused},
    arrival,
    body::RequestBody,
    connection::Peer,
    forward,
};
use crate::routing::{Claims, Entrant, Found, Guard, Guards, Policies, PortTable, Refusal};

mod asking;
mod external;
mod tokens;

/// A request whose rule has guards.
pub(crate) struct Asked<'a> {
    pub(crate) peer: &'a Peer,
    pub(crate) port: &'a PortTable,
    pub(crate) found: Found<'a>,
    pub(crate) inherited: Option<&'a Policies>,
    pub(crate) host: &'a str,
}

/// How far a request has come.
struct Passing {
    parts: Parts,
    body: RequestBody,
    authority: HeaderValue,
    client: IpAddr,
    tokens: Vec<(Arc<str>, Claims)>,
    late: Vec<(HeaderName, HeaderValue, bool)>,
    /// The place of the last step that was taken.
    step: Option<u8>,
}

/// What comes of the steps of a rule.
enum Outcome {
    /// All were taken.
    Passed,
    /// What the request is now may be another rule's.
    Elsewhere,
    /// It does not pass.
    Refused(Refusal),
}

impl Asked<'_> {
    /// Serves the request if it passes; else answers why not.
    pub(crate) async fn serve(&self, guards: &Guards, request: Request<RequestBody>, authority: HeaderValue) -> Answer {
        if let Some(headers) = guards.cors.as_ref().and_then(|cors| cors.preflight(request.method(), request.headers()))
        {
            let mut answer = own(StatusCode::OK, false);
            *answer.headers_mut() = headers;
            return answer;
        }
        let origin = guards.cors.as_ref().and_then(|_| request.headers().get(header::ORIGIN).cloned());
        let client = arrival::client(self.peer, &request);
        let (parts, body) = request.into_parts();
        let (tokens, late) = (Vec::new(), Vec::new());
        let passing = Passing { parts, body, authority, client, tokens, late, step: None };
        let mut answer = self.go_on(guards, passing).await;
        if let Some(cors) = &guards.cors {
            // Also to answers of the guards: else a page could not tell a refusal from a failure.
            cors.apply(origin.as_ref(), answer.headers_mut());
        }
        answer
    }

    /// Takes the steps that are left, and serves the request.
    fn go_on<'b>(
        &'b self,
        guards: &'b Guards,
        mut passing: Passing,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send + 'b>> {
        Box::pin(async move {
            let grpc = is_grpc(&passing.parts.headers);
            match self.pass(guards, &mut passing).await {
                Outcome::Refused(refusal) => refused(refusal, grpc),
                Outcome::Elsewhere => self.find_again(passing).await,
                Outcome::Passed => {
                    let request = Request::from_parts(passing.parts, passing.body);
                    let head = forward::head(self.host, &request);
                    let decision = self.found.decide(&head, self.inherited, rand::random());
                    let mut answer = forward::act(self.peer, decision, request, passing.authority).await;
                    for (name, value, append) in passing.late {
                        match append {
                            true => drop(answer.headers_mut().append(name, value)),
                            false => drop(answer.headers_mut().insert(name, value)),
                        }
                    }
                    answer
                }
            }
        })
    }

    async fn pass(&self, guards: &Guards, passing: &mut Passing) -> Outcome {
        let left = guards.steps.iter().filter(|step| passing.step.is_none_or(|taken| taken < step.order()));
        let left: Vec<&Guard> = left.collect();
        let names = (self.host, &passing.authority);
        let mut entrant = Entrant::new(&mut passing.parts, names, passing.client, self.peer.tls);
        (entrant.tokens, entrant.late) = (std::mem::take(&mut passing.tokens), std::mem::take(&mut passing.late));
        let mut outcome = Outcome::Passed;
        for step in left {
            passing.step = Some(step.order());
            let shared = &self.peer.shared;
            let asked = match step {
                Guard::Jwt(jwt) => tokens::ask(shared, jwt, &mut entrant).await,
                Guard::External(external) => external::ask(shared, external, &mut entrant, &mut passing.body).await,
                // Who else is to be asked is not known here, so that nothing passes.
                step => step.ask(&mut entrant).unwrap_or_else(|| Err(nobody())).map(|()| false),
            };
            match asked {
                Ok(false) => {}
                Ok(true) => {
                    outcome = Outcome::Elsewhere;
                    break;
                }
                Err(refusal) => {
                    outcome = Outcome::Refused(refusal);
                    break;
                }
            }
        }
        (passing.tokens, passing.late) = (entrant.tokens, entrant.late);
        outcome
    }

    /// Looks for the rule again by what the request is now. What its guards asked already is not asked again.
    async fn find_again(&self, passing: Passing) -> Answer {
        let site = self.peer.site.port;
        let request = Request::from_parts(passing.parts, ());
        let found = self.port.find(site, self.peer.through(), &forward::head(self.host, &request), rand::random());
        let (parts, ()) = request.into_parts();
        let found = match found {
            Ok(found) => found,
            Err(decision) => {
                let request = Request::from_parts(parts, passing.body);
                return forward::act(self.peer, decision, request, passing.authority).await;
            }
        };
        // Those of an Ingress have an order of their own.
        let step = passing.step.filter(|_| !found.is_of_ingress());
        let inherited = found.inherited();
        let none = Guards::default();
        let Asked { peer, port, host, .. } = *self;
        let again = Asked { peer, port, found, inherited: inherited.as_deref(), host };
        let guards = found.guards(inherited.as_deref()).map_or(&none, |guards| &**guards);
        again.go_on(guards, Passing { parts, step, ..passing }).await
    }
}

fn nobody() -> Refusal {
    Refusal::bare(StatusCode::INTERNAL_SERVER_ERROR)
}
