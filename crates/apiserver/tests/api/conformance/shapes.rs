//! Tables and metadata of every kind, and their refusal where there are none.

use http::{Method, header};
use serde_json::json;

use super::get_as;
use crate::fixture::{Fixture, JSON, request};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

#[tokio::test]
async fn what_is_not_kept_as_objects_makes_no_table() {
    let fixture = Fixture::new().await;
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let mut asked = request(Method::POST, path, JSON, &review.to_string());
    asked.headers_mut().insert(header::ACCEPT, TABLE.parse().unwrap());
    let answer = fixture.send(asked).await;
    assert_eq!((answer.status.as_u16(), answer.failed().1.as_str()), (406, "NotAcceptable"));
    let mut asked = request(Method::POST, path, JSON, &review.to_string());
    asked.headers_mut().insert(header::ACCEPT, "application/yaml".parse().unwrap());
    let answer = fixture.send(asked).await;
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/yaml");
}

#[tokio::test]
async fn every_listable_kind_has_tables_and_metadata() {
    let fixture = Fixture::new().await;
    let mut groups = vec!["/api/v1".to_owned()];
    for group in fixture.get("/apis").await.ok()["groups"].as_array().unwrap() {
        groups.extend(
            group["versions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|version| format!("/apis/{}", version["groupVersion"].as_str().unwrap())),
        );
    }
    for group in groups {
        for resource in fixture.get(&group).await.ok()["resources"].as_array().unwrap() {
            if !resource["verbs"].as_array().unwrap().contains(&json!("list")) {
                continue;
            }
            let path = format!("{group}/{}", resource["name"].as_str().unwrap());
            let table = get_as(&fixture, &path, TABLE).await.ok();
            assert_eq!(table["kind"], "Table", "{path}");
            assert_eq!(table["columnDefinitions"][0]["type"], "string", "{path}");
            let metadata = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
            assert_eq!(get_as(&fixture, &path, metadata).await.ok()["kind"], "PartialObjectMetadataList", "{path}");
        }
    }
}

#[tokio::test]
async fn the_older_version_of_the_shapes_is_spoken_too() {
    let fixture = Fixture::new().await;
    for (kind, items) in [("Table", "rows"), ("PartialObjectMetadataList", "items")] {
        let accept = format!("application/json;as={kind};v=v1beta1;g=meta.k8s.io");
        let list = get_as(&fixture, "/api/v1/namespaces", &accept).await.ok();
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!(kind), &json!("meta.k8s.io/v1beta1")));
        let first = &list[items][0];
        let partial = if items == "rows" { &first["object"] } else { first };
        assert_eq!(partial["apiVersion"], "meta.k8s.io/v1beta1");
    }
}
