use serde_json::json;

use super::*;

fn config() -> OidcConfig {
    OidcConfig {
        issuer_url: "https://issuer".into(),
        client_id: "kubernetes".into(),
        username_claim: "sub".into(),
        username_prefix: String::new(),
        groups_claim: "groups".into(),
        groups_prefix: "oidc:".into(),
        required_claims: BTreeMap::new(),
        signing_algorithms: vec![Algorithm::Rs256],
        ca_pem: None,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn a_user_is_what_the_claims_say_with_its_prefixes() {
    let claims = json!({"sub": "jane", "groups": ["a", "b"], "email": "j@x.io", "jti": "1"});
    let jane = user(&config(), &claims).unwrap();
    assert_eq!(jane.name, "https://issuer#jane");
    assert_eq!(jane.groups, ["oidc:a", "oidc:b", "system:authenticated"]);
    assert_eq!(jane.extra["authentication.kubernetes.io/credential-id"], ["JTI=1"]);
    for (claim, prefix, name) in
        [("sub", "-", "jane"), ("sub", "x:", "x:jane"), ("email", "", "j@x.io"), ("email", "x:", "x:j@x.io")]
    {
        let config = OidcConfig { username_claim: claim.into(), username_prefix: prefix.into(), ..config() };
        assert_eq!(user(&config, &claims).unwrap().name, name);
    }
    let one = user(&config(), &json!({"sub": "jane", "groups": "a"})).unwrap();
    assert_eq!(one.groups, ["oidc:a", "system:authenticated"]);
}

#[test]
fn claims_that_do_not_hold_are_refused_by_name() {
    let required = [("hd".to_owned(), "x.io".to_owned())];
    let required = OidcConfig { required_claims: required.into(), ..config() };
    let email = OidcConfig { username_claim: "email".into(), ..config() };
    for (config, claims, message) in [
        (&config(), json!({}), "oidc: parse username claims \"sub\": claim not present"),
        (&email, json!({"email": "a@b", "email_verified": false}), "oidc: email not verified"),
        (&required, json!({"sub": "a"}), "oidc: required claim hd not present in ID token"),
        (
            &required,
            json!({"sub": "a", "hd": "y"}),
            "oidc: required claim hd value does not match. Got = y, want = x.io",
        ),
        (&config(), json!({"sub": "a", "groups": 1}), "oidc: parse groups claim \"groups\": it is neither"),
    ] {
        let refused = user(config, &claims).unwrap_err().to_string();
        assert!(refused.starts_with(message), "{refused}");
    }
}

#[test]
fn a_token_for_others_or_out_of_its_time_is_refused() {
    let claims = json!({"aud": ["x", "kubernetes"], "exp": 1000, "nbf": 500});
    assert_eq!(check(&config(), &claims, at(600)), Ok(()));
    assert_eq!(check(&config(), &claims, at(201)), Ok(()));
    assert!(matches!(check(&config(), &claims, at(199)), Err(RefusedIdToken::NotYetValid { .. })));
    assert_eq!(check(&config(), &claims, at(1001)), Err(RefusedIdToken::Expired(at(1000))));
    let other = check(&config(), &json!({"aud": "x", "exp": 1000}), at(1)).unwrap_err().to_string();
    assert_eq!(other, r#"oidc: verify token: oidc: expected audience "kubernetes" got ["x"]"#);
    assert_eq!(check(&config(), &json!({"aud": "kubernetes"}), at(1)), Err(RefusedIdToken::Claims));
}
