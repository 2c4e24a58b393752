//! Files of names and passwords, as Apache's `htpasswd` writes them: a line for each, `name:hash`.
//!
//! Hashes are those that cost little to verify, because they are verified for each request: `{SHA}`, `{SSHA}` and the MD5
//! of Apache (`$apr1$`), which is what `htpasswd` writes unless told otherwise.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use md5::{Digest as _, Md5};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY as SHA1, SHA1_OUTPUT_LEN, digest};
use subtle::ConstantTimeEq as _;

/// How often Apache's MD5 is taken.
const ROUNDS: usize = 1000;

/// Characters of the salt that count.
const SALT: usize = 8;

/// The digits of crypt(3).
const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Bytes of a password that are looked at; longer ones are wrong. What a request can make the gateway compute is bounded.
const PASSWORD_BYTES_MAX: usize = 256;

/// Names and what is known of their passwords.
#[derive(Clone)]
pub struct Passwords {
    users: HashMap<Box<str>, Hash>,
    /// What an unknown name is compared with, so that it takes as long as a known one.
    nobody: Hash,
}

/// The file is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedPasswords {
    /// A line without a colon.
    #[error("invalid htpasswd format: each line must be in the format 'username:password'")]
    Line,
    /// A hash of another kind.
    #[error("unsupported htpasswd format: please use {{SHA}}, {{SSHA}} or $apr1$")]
    Unsupported,
    /// A `{SHA}` that is none.
    #[error("invalid htpasswd format: {{SHA}} must be base64-encoded SHA1")]
    Sha,
    /// Nobody is in it.
    #[error("invalid htpasswd format: there is no user")]
    Nobody,
}

#[derive(Clone)]
enum Hash {
    Sha1([u8; SHA1_OUTPUT_LEN]),
    Salted([u8; SHA1_OUTPUT_LEN], Box<[u8]>),
    Apache { salt: Box<str>, digits: [u8; 22] },
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Passwords of {} users", self.users.len())
    }
}

impl Passwords {
    /// Reads a file. The last of several lines for a name counts.
    ///
    /// # Errors
    /// When a line is not understood, or there is none: half a file would keep out those whom the other half lets in.
    pub fn parse(file: &str) -> Result<Self, MalformedPasswords> {
        let mut users = HashMap::new();
        let lines = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let (name, hash) = line.split_once(':').ok_or(MalformedPasswords::Line)?;
            // What follows another colon is for people.
            let hash = hash.split_once(':').map_or(hash, |(hash, _)| hash);
            users.insert(name.into(), Hash::parse(hash)?);
        }
        let nobody = users.values().next().cloned().ok_or(MalformedPasswords::Nobody)?;
        Ok(Passwords { users, nobody })
    }

    /// Whether the password is that of the name.
    pub fn verify(&self, name: &str, password: &[u8]) -> bool {
        if password.len() > PASSWORD_BYTES_MAX {
            return false;
        }
        match self.users.get(name) {
            Some(hash) => hash.verifies(password),
            None => {
                let _ = self.nobody.verifies(password);
                false
            }
        }
    }
}

impl Hash {
    fn parse(text: &str) -> Result<Self, MalformedPasswords> {
        let decoded = |text: &str| BASE64.decode(text).map_err(|_| MalformedPasswords::Sha);
        if let Some(text) = text.strip_prefix("{SHA}") {
            return decoded(text)?.try_into().map(Hash::Sha1).map_err(|_| MalformedPasswords::Sha);
        }
        if let Some(text) = text.strip_prefix("{SSHA}") {
            let bytes = decoded(text)?;
            let (hash, salt) = bytes.split_first_chunk().ok_or(MalformedPasswords::Sha)?;
            return Ok(Hash::Salted(*hash, salt.into()));
        }
        let apache = text.strip_prefix("$apr1$").and_then(|text| text.split_once('$'));
        let (salt, digits) = apache.ok_or(MalformedPasswords::Unsupported)?;
        let digits = digits.as_bytes().try_into().map_err(|_| MalformedPasswords::Unsupported)?;
        let salt = salt.get(..SALT).unwrap_or(salt).into();
        Ok(Hash::Apache { salt, digits })
    }

    fn verifies(&self, password: &[u8]) -> bool {
        let equal = match self {
            Hash::Sha1(hash) => hash[..].ct_eq(digest(&SHA1, password).as_ref()),
            Hash::Salted(hash, salt) => hash[..].ct_eq(digest(&SHA1, &[password, salt].concat()).as_ref()),
            Hash::Apache { salt, digits } => digits[..].ct_eq(&apache(password, salt.as_bytes())),
        };
        equal.into()
    }
}

/// Apache's MD5 of a password, in the digits of crypt(3).
fn apache(password: &[u8], salt: &[u8]) -> [u8; 22] {
    let inner = Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut first = Md5::new().chain_update(password).chain_update(b"$apr1$").chain_update(salt);
    for at in (0..password.len()).step_by(inner.len()) {
        first.update(&inner[..inner.len().min(password.len() - at)]);
    }
    let mut length = password.len();
    while length > 0 {
        let next = if length & 1 == 1 { 0 } else { password[0] };
        first.update([next]);
        length >>= 1;
    }
    let mut hash = first.finalize();
    for round in 0..ROUNDS {
        let mut next = Md5::new();
        let odd = round % 2 == 1;
        next.update(if odd { password } else { &hash });
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        next.update(if odd { &hash } else { password });
        hash = next.finalize();
    }
    digits(&hash)
}

/// Sixteen bytes in 22 digits, six bits each, in the order that crypt(3) has them.
fn digits(hash: &[u8]) -> [u8; 22] {
    let mut digits = [0; 22];
    let groups = [(0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5)];
    for (group, (high, middle, low)) in groups.into_iter().enumerate() {
        let bits = usize::from(hash[high]) << 16 | usize::from(hash[middle]) << 8 | usize::from(hash[low]);
        for digit in 0..4 {
            digits[group * 4 + digit] = DIGITS[bits >> (6 * digit) & 0x3f];
        }
    }
    let last = usize::from(hash[11]);
    (digits[20], digits[21]) = (DIGITS[last & 0x3f], DIGITS[last >> 6]);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl passwd -apr1` and `htpasswd -s`.
    const FILE: &str = "
        # those who may
        ada:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=
        bob:$apr1$Xo1XZqyW$eQWTnppJQeV.xHRNXfzGS0:a note
        eve:{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0\r
        empty:$apr1$abcdefgh$L.PT565ESX4Tp2bqNs7Ie.
        long:$apr1$12345678$0yOxmfFUVnL0Ez1XzymmQ0
        salt:$apr1$abc$rP4tdkqzfyFA5dAt4PoKH.
    ";

    #[test]
    fn lines_that_are_not_understood_are_told() {
        for (file, expected) in [
            ("ada", MalformedPasswords::Line),
            ("ada:secret", MalformedPasswords::Unsupported),
            ("ada:$2y$05$abc", MalformedPasswords::Unsupported),
            ("ada:$apr1$salt$short", MalformedPasswords::Unsupported),
            ("ada:{SHA}%", MalformedPasswords::Sha),
            ("ada:{SHA}YWJj", MalformedPasswords::Sha),
            ("\n# nobody\n", MalformedPasswords::Nobody),
        ] {
            assert_eq!(Passwords::parse(file).err(), Some(expected), "{file}");
        }
    }

    #[test]
    fn nobody_passes_with_another_password_or_under_another_name() {
        let passwords = Passwords::parse(FILE).unwrap();
        for (name, password) in [
            ("ada", "password"),
            ("bob", "hunter2"),
            ("eve", "secret"),
            ("empty", ""),
            ("long", "a password that is longer than sixteen"),
            ("salt", "short salt"),
        ] {
            assert!(passwords.verify(name, password.as_bytes()), "{name}");
            let long = "x".repeat(PASSWORD_BYTES_MAX + 1);
            for (name, password) in [(name, "Password"), ("nobody", password), ("", password), (name, &long)] {
                assert!(!passwords.verify(name, password.as_bytes()), "{name} {password:.20}");
            }
        }
        assert!(!format!("{passwords:?}").contains("W6ph"));
    }
}
