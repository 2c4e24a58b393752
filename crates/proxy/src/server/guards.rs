//! Asking requests what their guards want to know, before anything else happens to them.

use http::{HeaderValue, Request, StatusCode, header};

use super::{
    answer::{Answer, is_grpc, own},
    body::RequestBody,
    forward,
    listener::Peer,
};
use crate::routing::{Found, Guard, Guards, Policies};

/// A request whose rule has guards.
pub(crate) struct Asked<'a> {
    pub(crate) peer: &'a Peer,
    pub(crate) found: Found<'a>,
    pub(crate) inherited: Option<&'a Policies>,
    pub(crate) host: &'a str,
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
        let mut answer = match pass(guards, &request) {
            Ok(()) => {
                let decision = self.found.decide(&forward::head(self.host, &request), self.inherited, rand::random());
                forward::act(self.peer, decision, request, authority).await
            }
            Err(answer) => *answer,
        };
        if let Some(cors) = &guards.cors {
            // Also to answers of the guards: else a page could not tell a refusal from a failure.
            cors.apply(origin.as_ref(), answer.headers_mut());
        }
        answer
    }
}

fn pass(guards: &Guards, request: &Request<RequestBody>) -> Result<(), Box<Answer>> {
    match guards.steps.first() {
        Some(Guard::Refuse(status)) => Err(Box::new(own(*status, is_grpc(request.headers())))),
        None => Ok(()),
    }
}
