//! Where an object's revision goes. etcd decides the revision, so what lies there cannot carry it; it is put into
//! `metadata.resourceVersion` when the object comes back. This is the one place where the store looks into an object.

use bytes::Bytes;

/// The object with the revision in its place; `None` when it is no JSON object with metadata.
pub(super) fn complete(stored: &[u8], revision: u64) -> Option<Bytes> {
    splice::set(stored, &["metadata", "resourceVersion"], format!("\"{revision}\"").as_bytes()).map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_goes_into_the_metadata_and_nowhere_else() {
        for (stored, whole) in [
            (
                r#"{"kind":"A","metadata":{"resourceVersion":"","name":"a"}}"#,
                r#"{"kind":"A","metadata":{"resourceVersion":"7","name":"a"}}"#,
            ),
            (
                r#"{"metadata":{"name":"a","resourceVersion":"123"},"x":1}"#,
                r#"{"metadata":{"name":"a","resourceVersion":"7"},"x":1}"#,
            ),
            (r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"7"}}"#),
            (r#"{ "metadata" : { "name":"a" } }"#, r#"{ "metadata" : {"resourceVersion":"7", "name":"a" } }"#),
            (
                r#"{"data":{"metadata":{"resourceVersion":""},"x":[1,"\"]}",{"y":null}]},"n":-1.5e3,"metadata":{"labels":{"resourceVersion":"l"},"name":"a"}}"#,
                r#"{"data":{"metadata":{"resourceVersion":""},"x":[1,"\"]}",{"y":null}]},"n":-1.5e3,"metadata":{"resourceVersion":"7","labels":{"resourceVersion":"l"},"name":"a"}}"#,
            ),
        ] {
            assert_eq!(complete(stored.as_bytes(), 7).unwrap(), whole.as_bytes(), "{stored}");
        }
    }

    #[test]
    fn what_is_no_object_with_metadata_is_refused() {
        for stored in ["", "k8s\0\n", "[]", "{}", r#"{"a":1}"#, r#"{"metadata":"#, r#"{"metadata":1}"#, r#"{"a"#] {
            assert_eq!(complete(stored.as_bytes(), 7), None, "{stored}");
        }
    }
}
