//! A hash that only the holder of a key can make.

use hmac::{Hmac, KeyInit};
use secrecy::{ExposeSecret, SecretBox};
use sha2::Sha256;

/// HMAC-SHA256 (RFC 2104) under `key`, to be fed.
pub(super) fn keyed_hash(key: &SecretBox<[u8; 32]>) -> Hmac<Sha256> {
    // as the standard has it, a key shorter than a block ends in zeros
    let mut block = [0; 64];
    block[..32].copy_from_slice(key.expose_secret());
    Hmac::new(&block.into())
}
