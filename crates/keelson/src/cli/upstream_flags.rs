//! Settings under the names that kube-apiserver's flags have, so that a command line can be carried over.

use clap::Args;

use crate::config::Flag;

/// The flags; each is a setting, as `keelson config explain` shows.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "As kube-apiserver's flags")]
pub(crate) struct UpstreamFlags {
    /// https URL of the OpenID Connect provider whose users are believed
    #[arg(long, value_name = "URL")]
    oidc_issuer_url: Option<String>,
    /// Client that the provider's tokens must be meant for
    #[arg(long, value_name = "ID")]
    oidc_client_id: Option<String>,
    /// Claim that names the user [default: sub]
    #[arg(long, value_name = "CLAIM")]
    oidc_username_claim: Option<String>,
    /// What stands before the user's name; - is nothing
    #[arg(long, value_name = "PREFIX", allow_hyphen_values = true)]
    oidc_username_prefix: Option<String>,
    /// Claim that lists the user's groups
    #[arg(long, value_name = "CLAIM")]
    oidc_groups_claim: Option<String>,
    /// What stands before each group's name
    #[arg(long, value_name = "PREFIX")]
    oidc_groups_prefix: Option<String>,
    /// Claim that every token must have with this value; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    oidc_required_claim: Vec<String>,
    /// How tokens may be signed [default: RS256]
    #[arg(long, value_name = "ALG", value_delimiter = ',')]
    oidc_signing_algs: Vec<String>,
    /// Authorities of the provider's certificate
    #[arg(long, value_name = "FILE")]
    oidc_ca_file: Option<String>,
    /// Authorities of front proxies
    #[arg(long, value_name = "FILE")]
    requestheader_client_ca_file: Option<String>,
    /// Common names of front proxies
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    requestheader_allowed_names: Option<Vec<String>>,
    /// Headers that name the user
    #[arg(long, value_name = "HEADER", value_delimiter = ',')]
    requestheader_username_headers: Vec<String>,
    /// Headers that name the user's uid
    #[arg(long, value_name = "HEADER", value_delimiter = ',')]
    requestheader_uid_headers: Vec<String>,
    /// Headers that name the user's groups
    #[arg(long, value_name = "HEADER", value_delimiter = ',')]
    requestheader_group_headers: Vec<String>,
    /// What headers of further attributes begin with
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    requestheader_extra_headers_prefix: Vec<String>,
    /// Range of Services where no node runs
    #[arg(long, value_name = "CIDR")]
    service_cluster_ip_range: Option<String>,
    /// Configuration of encryption at rest
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<String>,
    /// Audit policy
    #[arg(long, value_name = "FILE")]
    audit_policy_file: Option<String>,
    /// Audit log; - is standard output
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    audit_log_path: Option<String>,
    /// Size of the audit log, in MiB
    #[arg(long, value_name = "MIB")]
    audit_log_maxsize: Option<String>,
    /// Audit logs put aside that are kept
    #[arg(long, value_name = "NUMBER")]
    audit_log_maxbackup: Option<String>,
    /// Days that audit logs put aside are kept
    #[arg(long, value_name = "DAYS")]
    audit_log_maxage: Option<String>,
    /// Kubeconfig of the audit webhook
    #[arg(long, value_name = "FILE")]
    audit_webhook_config_file: Option<String>,
}

impl UpstreamFlags {
    /// The flags that were given.
    pub(crate) fn given(&self) -> impl Iterator<Item = Flag> {
        let joined = |words: &[String]| (!words.is_empty()).then(|| words.join(","));
        let allowed = self.requestheader_allowed_names.as_ref().map(|names| names.join(","));
        let all = [
            ("oidc.issuerUrl", "oidc-issuer-url", self.oidc_issuer_url.clone()),
            ("oidc.clientId", "oidc-client-id", self.oidc_client_id.clone()),
            ("oidc.usernameClaim", "oidc-username-claim", self.oidc_username_claim.clone()),
            ("oidc.usernamePrefix", "oidc-username-prefix", self.oidc_username_prefix.clone()),
            ("oidc.groupsClaim", "oidc-groups-claim", self.oidc_groups_claim.clone()),
            ("oidc.groupsPrefix", "oidc-groups-prefix", self.oidc_groups_prefix.clone()),
            ("oidc.requiredClaims", "oidc-required-claim", joined(&self.oidc_required_claim)),
            ("oidc.signingAlgs", "oidc-signing-algs", joined(&self.oidc_signing_algs)),
            ("oidc.caFile", "oidc-ca-file", self.oidc_ca_file.clone()),
            ("requestHeader.clientCaFile", "requestheader-client-ca-file", self.requestheader_client_ca_file.clone()),
            ("requestHeader.allowedNames", "requestheader-allowed-names", allowed),
            (
                "requestHeader.usernameHeaders",
                "requestheader-username-headers",
                joined(&self.requestheader_username_headers),
            ),
            ("requestHeader.uidHeaders", "requestheader-uid-headers", joined(&self.requestheader_uid_headers)),
            ("requestHeader.groupHeaders", "requestheader-group-headers", joined(&self.requestheader_group_headers)),
            (
                "requestHeader.extraHeaderPrefixes",
                "requestheader-extra-headers-prefix",
                joined(&self.requestheader_extra_headers_prefix),
            ),
            ("services.clusterIpRange", "service-cluster-ip-range", self.service_cluster_ip_range.clone()),
            ("encryption.config", "encryption-provider-config", self.encryption_provider_config.clone()),
            ("audit.policy", "audit-policy-file", self.audit_policy_file.clone()),
            ("audit.log.path", "audit-log-path", self.audit_log_path.clone()),
            ("audit.log.maxSizeMiB", "audit-log-maxsize", self.audit_log_maxsize.clone()),
            ("audit.log.maxBackups", "audit-log-maxbackup", self.audit_log_maxbackup.clone()),
            ("audit.log.maxAgeDays", "audit-log-maxage", self.audit_log_maxage.clone()),
            ("audit.webhook.config", "audit-webhook-config-file", self.audit_webhook_config_file.clone()),
        ];
        all.into_iter().filter_map(|(key, name, value)| Some(Flag { key, name, value: value? }))
    }
}
