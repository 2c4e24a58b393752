//! Asking requests what their guards want to know, before anything else happens to them.

use http::{HeaderValue, Request, StatusCode, header};

use super::{
    answer::{Answer, is_grpc, own, refused},
    arrival,
    body::RequestBody,
    connection::Peer,
    forward,
};
use crate::routing::{Entrant, Found, Guards, Policies, Refusal};

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
        let grpc = is_grpc(request.headers());
        let mut answer = match self.pass(guards, request, &authority).await {
            Ok(request) => {
                let decision = self.found.decide(&forward::head(self.host, &request), self.inherited, rand::random());
                forward::act(self.peer, decision, request, authority).await
            }
            Err(refusal) => refused(*refusal, grpc),
        };
        if let Some(cors) = &guards.cors {
            // Also to answers of the guards: else a page could not tell a refusal from a failure.
            cors.apply(origin.as_ref(), answer.headers_mut());
        }
        answer
    }

    /// The request as it is after every step.
    async fn pass(
        &self,
        guards: &Guards,
        request: Request<RequestBody>,
        authority: &HeaderValue,
    ) -> Result<Request<RequestBody>, Box<Refusal>> {
        let client = arrival::client(self.peer, &request);
        let (mut parts, body) = request.into_parts();
        let mut entrant =
            Entrant { parts: &mut parts, host: self.host, authority, client, tls: self.peer.tls, tokens: Vec::new() };
        for step in &guards.steps {
            step.ask(&mut entrant)?;
        }
        Ok(Request::from_parts(parts, body))
    }
}
