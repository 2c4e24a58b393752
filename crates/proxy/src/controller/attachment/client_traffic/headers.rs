//! What a ClientTrafficPolicy says of headers.

use kinds::envoy_gateway::{ClientHeaderEdits, ClientHeaders, XForwardedClientCert};

use super::super::reading::{bytes, header, invalid, pairs, tell, texts};
use crate::{
    controller::verdict::Fault,
    routing::{
        CertificateDetail, Client, ClientEdits, HeaderEdits, Kept, RequestId, TextMatch, ToldCertificates, Underscores,
    },
};

/// What the longest head may be, as Envoy has it.
const HEAD_BYTES: (u64, u64) = (1 << 10, 8192 << 10);

pub(super) fn compile(from: &ClientHeaders, client: &mut Client, warnings: &mut Vec<String>) -> Result<(), Fault> {
    tell(warnings, "headers.", &from.unread);
    if let Some(edits) = &from.early_request_headers {
        client.early = compile_edits("headers.earlyRequestHeaders", edits, warnings)?;
    }
    if let Some(edits) = &from.late_response_headers {
        client.late = compile_edits("headers.lateResponseHeaders", edits, warnings)?;
    }
    client.telling = from.enable_envoy_headers.unwrap_or(false);
    client.underscores = match from.with_underscores_action.as_deref() {
        None | Some("Allow") => Underscores::Keep,
        Some("RejectRequest") => Underscores::Refuse,
        Some("DropHeader") => Underscores::Drop,
        Some(other) => return Err(invalid(format!("spec.headers.withUnderscoresAction: {other} is not known"))),
    };
    if let Some(from) = &from.x_forwarded_client_cert {
        client.certificates = certificates(from, warnings)?;
    }
    client.request_id = match (from.request_id.as_deref(), from.preserve_request_id) {
        (Some("Preserve"), _) => RequestId::Keep,
        (Some("Generate"), _) => RequestId::Make,
        (Some("Disable"), _) => RequestId::Drop,
        (Some("PreserveOrGenerate") | None, _) => RequestId::KeepOrMake,
        (Some(other), _) => return Err(invalid(format!("spec.headers.requestID: {other} is not known"))),
    };
    let head = bytes("headers.maxRequestHeaderLimit", from.max_request_header_limit.as_ref(), HEAD_BYTES)?;
    // Rounded up to whole KiB, as Envoy counts.
    client.http1.head_bytes = head.map(|head| usize::try_from(head.div_ceil(1024) * 1024).unwrap_or(usize::MAX));
    if let Some(host) = &from.host {
        tell(warnings, "headers.host.", &host.unread);
        client.undotted = host.strip_trailing_host_dot.unwrap_or(false);
    }
    Ok(())
}

fn compile_edits(field: &str, from: &ClientHeaderEdits, warnings: &mut Vec<String>) -> Result<ClientEdits, Fault> {
    tell(warnings, &format!("{field}."), &from.unread);
    let remove = from.remove.iter().flatten().map(|name| header(field, Some(name))).collect::<Result<_, _>>()?;
    let unwanted = texts(&format!("{field}.removeOnMatch"), from.remove_on_match.as_ref())?;
    Ok(ClientEdits {
        edits: HeaderEdits { remove, set: pairs(field, from.set.as_ref())?, add: pairs(field, from.add.as_ref())? },
        missing: pairs(field, from.add_if_absent.as_ref())?,
        unwanted: unwanted.into_iter().map(TextMatch::lowered).collect(),
    })
}

fn certificates(from: &XForwardedClientCert, warnings: &mut Vec<String>) -> Result<ToldCertificates, Fault> {
    tell(warnings, "headers.xForwardedClientCert.", &from.unread);
    let (kept, told) = match from.mode.as_deref() {
        None | Some("Sanitize") => (Kept::Never, false),
        Some("ForwardOnly") => (Kept::Known, false),
        Some("AppendForward") => (Kept::Known, true),
        Some("SanitizeSet") => (Kept::Never, true),
        Some("AlwaysForwardOnly") => (Kept::Always, false),
        Some(other) => return Err(invalid(format!("spec.headers.xForwardedClientCert.mode: {other} is not known"))),
    };
    let detail = |name: &String| match name.as_str() {
        "Subject" => Ok(CertificateDetail::Subject),
        "Cert" => Ok(CertificateDetail::Certificate),
        "Chain" => Ok(CertificateDetail::Chain),
        "DNS" => Ok(CertificateDetail::Hosts),
        "URI" => Ok(CertificateDetail::Uris),
        other => Err(invalid(format!("spec.headers.xForwardedClientCert.certDetailsToAdd: {other} is not known"))),
    };
    let details = from.cert_details_to_add.iter().flatten().map(detail).collect::<Result<_, _>>()?;
    Ok(ToldCertificates { kept, told, details })
}
