//! The ciphers of encryption at rest, each in upstream's layout.
//!
//! - `aesgcm`: a random nonce of 12 bytes, then the ciphertext and its tag; bound to the place.
//! - `aescbc`: a random block, then the padded ciphertext. It is not authenticated and only there for what was sealed
//!   with it elsewhere.
//! - `secretbox`: a random nonce of 24 bytes, then NaCl's box: the tag, then the ciphertext.

use aes::{Aes128, Aes192, Aes256};
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7};
use poly1305::{Poly1305, universal_hash::KeyInit};
use ring::{
    aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use salsa20::{XSalsa20, cipher::StreamCipher};

const BLOCK: usize = 16;
const BOX_NONCE: usize = 24;
const BOX_KEY: usize = 32;
const BOX_TAG: usize = 16;

/// A provider with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    AesGcm,
    AesCbc,
    Secretbox,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AesGcm => "aesgcm",
            Self::AesCbc => "aescbc",
            Self::Secretbox => "secretbox",
        }
    }

    /// Bytes that its keys may have.
    pub(super) fn lengths(self) -> &'static [usize] {
        match self {
            Self::AesGcm => &[16, 32],
            Self::AesCbc => &[16, 24, 32],
            Self::Secretbox => &[BOX_KEY],
        }
    }
}

/// A key of some provider.
pub(super) enum Cipher {
    AesGcm(Box<LessSafeKey>),
    AesCbc(Vec<u8>),
    Secretbox([u8; BOX_KEY]),
}

impl Cipher {
    /// `None` when the key has the wrong length.
    pub(super) fn new(kind: Kind, secret: &[u8]) -> Option<Self> {
        if !kind.lengths().contains(&secret.len()) {
            return None;
        }
        Some(match kind {
            Kind::AesGcm => {
                let algorithm = if secret.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
                Self::AesGcm(Box::new(LessSafeKey::new(UnboundKey::new(algorithm, secret).ok()?)))
            }
            Kind::AesCbc => Self::AesCbc(secret.to_vec()),
            Kind::Secretbox => Self::Secretbox(secret.try_into().ok()?),
        })
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::AesGcm(_) => Kind::AesGcm,
            Self::AesCbc(_) => Kind::AesCbc,
            Self::Secretbox(_) => Kind::Secretbox,
        }
    }

    /// The prefix and the sealed value behind it; `None` when there is no randomness.
    pub(super) fn seal(&self, prefix: &[u8], place: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let mut out = prefix.to_vec();
        match self {
            Self::AesGcm(key) => {
                let mut nonce = [0; NONCE_LEN];
                random.fill(&mut nonce).ok()?;
                out.reserve(NONCE_LEN + plain.len() + BLOCK);
                out.extend_from_slice(&nonce);
                let start = out.len();
                out.extend_from_slice(plain);
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(place), &mut out[start..]).ok()?;
                out.extend_from_slice(tag.as_ref());
            }
            Self::AesCbc(key) => {
                let mut first = [0; BLOCK];
                random.fill(&mut first).ok()?;
                out.extend_from_slice(&first);
                out.extend_from_slice(&encrypt_blocks(key, &first, plain)?);
            }
            Self::Secretbox(key) => {
                let mut nonce = [0; BOX_NONCE];
                random.fill(&mut nonce).ok()?;
                out.extend_from_slice(&nonce);
                let (tag, sealed) = seal_box(key, &nonce, plain)?;
                out.extend_from_slice(&tag);
                out.extend_from_slice(&sealed);
            }
        }
        Some(out)
    }

    /// The value behind the prefix; `None` when this key does not open it.
    pub(super) fn open(&self, place: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::AesGcm(key) => {
                let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
                let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
                let mut buffer = sealed.to_vec();
                let length = key.open_in_place(nonce, Aad::from(place), &mut buffer).ok()?.len();
                buffer.truncate(length);
                Some(buffer)
            }
            Self::AesCbc(key) => {
                let (first, sealed) = sealed.split_at_checked(BLOCK)?;
                decrypt_blocks(key, first, sealed)
            }
            Self::Secretbox(key) => {
                let (nonce, sealed) = sealed.split_at_checked(BOX_NONCE)?;
                let (tag, sealed) = sealed.split_at_checked(BOX_TAG)?;
                open_box(key, nonce, tag, sealed)
            }
        }
    }
}

fn encrypt_blocks(key: &[u8], first: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    Some(match key.len() {
        16 => cbc::Encryptor::<Aes128>::new_from_slices(key, first).ok()?.encrypt_padded_vec::<Pkcs7>(plain),
        24 => cbc::Encryptor::<Aes192>::new_from_slices(key, first).ok()?.encrypt_padded_vec::<Pkcs7>(plain),
        _ => cbc::Encryptor::<Aes256>::new_from_slices(key, first).ok()?.encrypt_padded_vec::<Pkcs7>(plain),
    })
}

fn decrypt_blocks(key: &[u8], first: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    match key.len() {
        16 => cbc::Decryptor::<Aes128>::new_from_slices(key, first).ok()?.decrypt_padded_vec::<Pkcs7>(sealed).ok(),
        24 => cbc::Decryptor::<Aes192>::new_from_slices(key, first).ok()?.decrypt_padded_vec::<Pkcs7>(sealed).ok(),
        _ => cbc::Decryptor::<Aes256>::new_from_slices(key, first).ok()?.decrypt_padded_vec::<Pkcs7>(sealed).ok(),
    }
}

/// The stream behind its first 32 bytes, which are the key of the tag.
fn box_stream(key: &[u8; BOX_KEY], nonce: &[u8]) -> Option<(XSalsa20, Poly1305)> {
    let mut stream = XSalsa20::new_from_slices(key, nonce).ok()?;
    let mut tag_key = [0; BOX_KEY];
    stream.apply_keystream(&mut tag_key);
    Some((stream, Poly1305::new_from_slice(&tag_key).ok()?))
}

fn seal_box(key: &[u8; BOX_KEY], nonce: &[u8], plain: &[u8]) -> Option<([u8; BOX_TAG], Vec<u8>)> {
    let (mut stream, tag) = box_stream(key, nonce)?;
    let mut sealed = plain.to_vec();
    stream.apply_keystream(&mut sealed);
    let tag = tag.compute_unpadded(&sealed);
    Some((<[u8; BOX_TAG]>::try_from(tag.as_slice()).ok()?, sealed))
}

fn open_box(key: &[u8; BOX_KEY], nonce: &[u8], tag: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (mut stream, expected) = box_stream(key, nonce)?;
    let expected = expected.compute_unpadded(sealed);
    // in a time that does not tell how much of the tag is right
    let differs = expected.iter().zip(tag).fold(0, |all, (a, b)| all | (a ^ b));
    if differs != 0 {
        return None;
    }
    let mut plain = sealed.to_vec();
    stream.apply_keystream(&mut plain);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    /// The example of the NaCl paper and library (`secretbox`), as every implementation tests itself.
    #[test]
    fn the_box_is_the_one_of_nacl() {
        let key = hex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = hex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        let plain = hex(
            "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f4\
             1db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd4924ca1c60902e52\
             f0a089bc76897040e082f937763848645e0705",
        );
        let (tag, sealed) = seal_box(&key.clone().try_into().unwrap(), &nonce, &plain).unwrap();
        assert_eq!(tag.as_slice(), hex("f3ffc7703f9400e52a7dfb4b3d3305d9"));
        assert_eq!(sealed[..16], hex("8e993b9f48681273c29650ba32fc76ce"));
        assert_eq!(open_box(&key.try_into().unwrap(), &nonce, &tag, &sealed).unwrap(), plain);
    }

    /// NIST SP 800-38A, F.2.1.
    #[test]
    fn blocks_are_chained_as_the_standard_says() {
        let key = hex("2b7e151628aed2a6abf7158809cf4f3c");
        let first = hex("000102030405060708090a0b0c0d0e0f");
        let plain = hex("6bc1bee22e409f96e93d7e117393172a");
        let sealed = encrypt_blocks(&key, &first, &plain).unwrap();
        assert_eq!(sealed[..16], hex("7649abac8119b246cee98e9b12e9197d"));
        assert_eq!(decrypt_blocks(&key, &first, &sealed).unwrap(), plain);
    }

    #[test]
    fn each_cipher_opens_what_it_sealed_and_nothing_else() {
        for (kind, length) in
            [(Kind::AesGcm, 16), (Kind::AesGcm, 32), (Kind::AesCbc, 24), (Kind::AesCbc, 32), (Kind::Secretbox, 32)]
        {
            let cipher = Cipher::new(kind, &vec![7; length]).unwrap();
            for plain in [&b""[..], b"a secret", &[0; 1000]] {
                let sealed = cipher.seal(b"p:", b"place", plain).unwrap();
                let sealed = sealed.strip_prefix(b"p:").unwrap();
                assert_eq!(cipher.open(b"place", sealed).as_deref(), Some(plain), "{kind:?}");
                assert_eq!(cipher.open(b"place", &sealed[..sealed.len() - 1]), None, "{kind:?}");
                assert_eq!(cipher.open(b"place", &[]), None, "{kind:?}");
                if kind != Kind::AesCbc {
                    let mut other = sealed.to_vec();
                    *other.last_mut().unwrap() ^= 1;
                    assert_eq!(cipher.open(b"place", &other), None, "{kind:?}");
                }
            }
        }
        let bound = Cipher::new(Kind::AesGcm, &[7; 32]).unwrap();
        let sealed = bound.seal(b"", b"one place", b"x").unwrap();
        assert_eq!(bound.open(b"another", &sealed), None);
        assert!(Cipher::new(Kind::AesGcm, &[7; 24]).is_none());
    }
}
