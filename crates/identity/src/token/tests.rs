use super::*;

fn claims(exp: i64) -> Claims {
    Claims {
        aud: vec!["keelson".to_owned()],
        exp,
        iat: 100,
        iss: String::new(),
        jti: "id".to_owned(),
        nbf: 100,
        sub: "system:serviceaccount:default:web".to_owned(),
        kubernetes: KubernetesClaims {
            namespace: "default".to_owned(),
            serviceaccount: BoundObject { name: "web".to_owned(), uid: "u".to_owned() },
            ..KubernetesClaims::default()
        },
    }
}

fn signer(directory: &Path) -> TokenSigner {
    TokenSigner::load_or_create(&directory.join("sa.key"), "https://kubernetes.default.svc").unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn a_token_outlives_a_restart_but_not_its_expiry_by_more_than_the_leeway() {
    let directory = tempfile::tempdir().unwrap();
    let token = signer(directory.path()).sign(claims(200)).unwrap();
    let restarted = signer(directory.path());
    let Verified::Bound(verified) = restarted.verify(&token, at(260)).unwrap() else { panic!("a bound token") };
    assert_eq!(verified.sub, "system:serviceaccount:default:web");
    assert!(matches!(restarted.verify(&token, at(261)), Err(TokenError::Expired)));
    assert!(matches!(restarted.verify(&token, at(39)), Err(TokenError::NotYetValid)));
}

#[test]
fn another_key_or_a_changed_claim_is_refused() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let token = signer(one.path()).sign(claims(200)).unwrap();
    assert!(matches!(signer(two.path()).verify(&token, at(150)), Err(TokenError::Signature)));
    let mut parts: Vec<&str> = token.split('.').collect();
    let mut other = claims(9_999);
    other.iss = "https://kubernetes.default.svc".to_owned();
    let forged = BASE64.encode(serde_json::to_vec(&other).unwrap());
    parts[1] = &forged;
    assert!(matches!(signer(one.path()).verify(&parts.join("."), at(150)), Err(TokenError::Signature)));
    assert!(matches!(signer(one.path()).verify("a.b", at(150)), Err(TokenError::Malformed(_))));
}

#[test]
fn tokens_of_an_older_key_are_good_while_its_public_half_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let at_path = |name: &str| directory.path().join(name);
    let token = signer(directory.path()).sign(claims(200)).unwrap();
    std::fs::rename(at_path("sa.pub"), at_path("sa-1.pub")).unwrap();
    std::fs::remove_file(at_path("sa.key")).unwrap();
    let rotated = signer(directory.path());
    assert_eq!(rotated.jwks()["keys"].as_array().unwrap().len(), 2);
    rotated.verify(&token, at(150)).unwrap();
    rotated.verify(&rotated.sign(claims(200)).unwrap(), at(150)).unwrap();
    std::fs::write(at_path("sa-1.pub"), "junk").unwrap();
    let error = TokenSigner::load_or_create(&at_path("sa.key"), "i").err().unwrap().to_string();
    assert!(error.contains("sa-1.pub"), "{error}");
    std::fs::remove_file(at_path("sa-1.pub")).unwrap();
    assert!(matches!(signer(directory.path()).verify(&token, at(150)), Err(TokenError::Signature)));
}

#[test]
fn a_token_of_a_secret_names_it_and_does_not_expire() {
    let directory = tempfile::tempdir().unwrap();
    let signer = signer(directory.path());
    let token = signer.sign_legacy("default", "web", "u", "web-token").unwrap();
    let Verified::Legacy(claims) = signer.verify(&token, at(9_000_000_000)).unwrap() else { panic!("a legacy token") };
    assert_eq!((claims.secret.as_str(), claims.account.as_str()), ("web-token", "web"));
    let unnamed = signer.sign_legacy("default", "web", "u", "").unwrap();
    assert_eq!(signer.verify(&unnamed, at(0)).unwrap_err().to_string(), "secretName claim is missing");
}

#[test]
fn an_audience_may_be_one_text() {
    let mut value = serde_json::to_value(claims(1)).unwrap();
    value["aud"] = "one".into();
    assert_eq!(serde_json::from_value::<Claims>(value).unwrap().aud, ["one"]);
}
