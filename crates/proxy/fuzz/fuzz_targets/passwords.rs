//! Any text as a file of names and passwords, which begins with a password that is tried under the name of its first line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::routing::Passwords;

fuzz_target!(|text: &str| {
    let (password, file) = text.split_once('\0').unwrap_or(("", text));
    let Ok(passwords) = Passwords::parse(file) else { return };
    let name = file.trim_start().split(':').next().unwrap_or("");
    let _ = passwords.verify(name, password.as_bytes());
    assert!(!passwords.verify("nobody has a name with a colon: ", password.as_bytes()));
});
