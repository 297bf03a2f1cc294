//! Secrets at rest: one master key (`secrets.key`), from which each use gets a key of its own, and the sealing
//! of credentials under one of them.
//!
//! Sealed bytes are `1 ‖ nonce (12) ‖ ciphertext ‖ tag (16)`, AES-256-GCM, with what they are for as associated
//! data: what was sealed for one provider does not open for another.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hmac,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use greenroom_actors::sealer::{SealError, Sealer};
use secrecy::{ExposeSecret, SecretBox, SecretString};

/// The form of sealed bytes, so that another can follow.
const FORM: u8 = 1;

/// The key all others come from.
pub struct MasterKey(SecretBox<[u8; 32]>);

/// The master key is not 32 bytes in base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("secrets.key must be 32 bytes in base64")]
pub struct MasterKeyInvalid;

impl MasterKey {
    /// Reads `secrets.key`.
    ///
    /// # Errors
    /// [`MasterKeyInvalid`], which says nothing of the key.
    pub fn from_base64(text: &SecretString) -> Result<Self, MasterKeyInvalid> {
        let bytes = BASE64_STANDARD.decode(text.expose_secret().trim()).map_err(|_| MasterKeyInvalid)?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| MasterKeyInvalid)?;
        Ok(Self(SecretBox::new(Box::new(bytes))))
    }

    /// The key for one use. Keys of different uses say nothing about each other or the master key.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        // the expand step of HKDF (RFC 5869); the master key is uniformly random, so no extract step is needed
        let master = hmac::Key::new(hmac::HMAC_SHA256, self.0.expose_secret());
        let tag = hmac::sign(&master, &[b"greenroom/v1/", purpose.as_bytes(), &[1]].concat());
        let mut key = [0; 32];
        key.copy_from_slice(tag.as_ref());
        key
    }
}

/// Seals and opens credentials.
pub struct CredentialSealer {
    key: RandomizedNonceKey,
}

impl CredentialSealer {
    /// A sealer under a key of its own.
    ///
    /// # Errors
    /// [`SealError`] if the cryptographic library refuses its own key length, which it does not.
    pub fn new(master: &MasterKey) -> Result<Self, SealError> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, &master.derive("provider credentials"));
        Ok(Self { key: key.map_err(|_| SealError)? })
    }
}

impl Sealer for CredentialSealer {
    fn seal(&self, purpose: &str, plain: &SecretString) -> Result<Vec<u8>, SealError> {
        let mut text = plain.expose_secret().as_bytes().to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut text)
            .map_err(|_| SealError)?;
        Ok([&[FORM], nonce.as_ref().as_slice(), &text].concat())
    }

    fn open(&self, purpose: &str, sealed: &[u8]) -> Result<SecretString, SealError> {
        let (form, rest) = sealed.split_first().ok_or(SealError)?;
        let (nonce, text) = rest.split_at_checked(NONCE_LEN).ok_or(SealError)?;
        if *form != FORM {
            return Err(SealError);
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError)?;
        let mut text = text.to_vec();
        let plain =
            self.key.open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut text).map_err(|_| SealError)?;
        let plain = std::str::from_utf8(plain).map_err(|_| SealError)?;
        Ok(SecretString::from(plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(byte: u8) -> MasterKey {
        MasterKey::from_base64(&BASE64_STANDARD.encode([byte; 32]).into()).unwrap()
    }

    #[test]
    fn only_32_bytes_are_a_key() {
        for text in ["", "short", &BASE64_STANDARD.encode([1; 31]), &BASE64_STANDARD.encode([1; 33]), "***"] {
            assert!(MasterKey::from_base64(&SecretString::from(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn each_use_and_each_master_has_its_own_key() {
        let keys = [master(1).derive("a"), master(1).derive("b"), master(2).derive("a")];
        assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2]);
        assert_eq!(master(1).derive("a"), keys[0]);
    }

    #[test]
    fn what_is_sealed_opens_for_its_purpose_alone() {
        let sealer = CredentialSealer::new(&master(1)).unwrap();
        let plain = SecretString::from(r#"{"type":"bearer","token":"s3cret"}"#);
        let sealed = sealer.seal("provider:draw", &plain).unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"s3cret"));
        assert_eq!(sealer.open("provider:draw", &sealed).unwrap().expose_secret(), plain.expose_secret());
        assert_ne!(sealer.seal("provider:draw", &plain).unwrap(), sealed, "no two seals are alike");

        assert!(sealer.open("provider:other", &sealed).is_err());
        assert!(CredentialSealer::new(&master(2)).unwrap().open("provider:draw", &sealed).is_err());
        for index in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[index] ^= 1;
            assert!(sealer.open("provider:draw", &bent).is_err(), "byte {index}");
            assert!(sealer.open("provider:draw", &sealed[..index]).is_err(), "cut at {index}");
        }
    }
}
