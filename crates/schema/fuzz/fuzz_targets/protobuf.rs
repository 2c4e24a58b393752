//! Any bytes as an encoded object; what decodes must encode to something that decodes to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(object) = schema::protobuf::decode(bytes) else { return };
    if let Ok(encoded) = schema::protobuf::encode(&object) {
        assert_eq!(schema::protobuf::decode(&encoded), Ok(object));
    }
});
