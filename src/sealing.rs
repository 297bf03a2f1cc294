//! Secrets at rest: one master key (`secrets.key`), from which each use gets a key of its own, and the sealing
//! of credentials under one of them. Earlier master keys (`secrets.previous_keys`) make nothing any more; what they made
//! is still accepted.
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

/// The keys all others come from.
pub struct MasterKeys {
    current: SecretBox<[u8; 32]>,
    previous: Vec<SecretBox<[u8; 32]>>,
}

/// A master key is not 32 bytes in base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("secrets.key and secrets.previous_keys must be 32 bytes in base64")]
pub struct MasterKeyInvalid;

/// The keys for one use.
#[derive(Clone)]
pub struct DerivedKeys {
    /// Makes what is new.
    pub current: [u8; 32],
    /// Made what is still accepted.
    pub previous: Vec<[u8; 32]>,
}

/// A key that was never changed.
impl From<[u8; 32]> for DerivedKeys {
    fn from(current: [u8; 32]) -> Self {
        Self { current, previous: Vec::new() }
    }
}

impl MasterKeys {
    /// Reads `secrets.key` and `secrets.previous_keys`.
    ///
    /// # Errors
    /// [`MasterKeyInvalid`], which says nothing of the key.
    pub fn from_base64(current: &SecretString, previous: &[SecretString]) -> Result<Self, MasterKeyInvalid> {
        let read = |text| Some(SecretBox::new(Box::new(key_bytes(text)?)));
        let previous = previous.iter().map(read).collect::<Option<_>>().ok_or(MasterKeyInvalid)?;
        Ok(Self { current: read(current).ok_or(MasterKeyInvalid)?, previous })
    }

    /// The keys for one use. Keys of different uses say nothing about each other or the master key.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> DerivedKeys {
        let derive = |master| derive(master, purpose);
        DerivedKeys { current: derive(&self.current), previous: self.previous.iter().map(derive).collect() }
    }
}

/// The bytes of a master key as it is written, if it is one.
pub(crate) fn key_bytes(text: &SecretString) -> Option<[u8; 32]> {
    BASE64_STANDARD.decode(text.expose_secret().trim()).ok()?.try_into().ok()
}

fn derive(master: &SecretBox<[u8; 32]>, purpose: &str) -> [u8; 32] {
    // the expand step of HKDF (RFC 5869); the master key is uniformly random, so no extract step is needed
    let master = hmac::Key::new(hmac::HMAC_SHA256, master.expose_secret());
    let tag = hmac::sign(&master, &[b"greenroom/v1/", purpose.as_bytes(), &[1]].concat());
    let mut key = [0; 32];
    key.copy_from_slice(tag.as_ref());
    key
}

/// Seals and opens credentials.
pub struct CredentialSealer {
    current: RandomizedNonceKey,
    previous: Vec<RandomizedNonceKey>,
}

impl CredentialSealer {
    /// A sealer under a key of its own.
    ///
    /// # Errors
    /// [`SealError`] if the cryptographic library refuses its own key length, which it does not.
    pub fn new(master: &MasterKeys) -> Result<Self, SealError> {
        let keys = master.derive("provider credentials");
        let key = |key: &[u8; 32]| RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| SealError);
        let previous = keys.previous.iter().map(key).collect::<Result<_, _>>()?;
        Ok(Self { current: key(&keys.current)?, previous })
    }
}

impl Sealer for CredentialSealer {
    fn seal(&self, purpose: &str, plain: &SecretString) -> Result<Vec<u8>, SealError> {
        let mut text = plain.expose_secret().as_bytes().to_vec();
        let nonce = self
            .current
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
        // the tag tells whose it is
        let keys = std::iter::once(&self.current).chain(&self.previous);
        keys.filter_map(|key| open(key, purpose, nonce, text)).next().ok_or(SealError)
    }
}

fn open(key: &RandomizedNonceKey, purpose: &str, nonce: &[u8], text: &[u8]) -> Option<SecretString> {
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut text = text.to_vec();
    let plain = key.open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut text).ok()?;
    std::str::from_utf8(plain).ok().map(SecretString::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SecretString {
        BASE64_STANDARD.encode([byte; 32]).into()
    }

    fn master(byte: u8) -> MasterKeys {
        MasterKeys::from_base64(&key(byte), &[]).unwrap()
    }

    #[test]
    fn only_32_bytes_are_a_key() {
        for text in ["", "short", &BASE64_STANDARD.encode([1; 31]), &BASE64_STANDARD.encode([1; 33]), "***"] {
            let text = SecretString::from(text);
            assert!(MasterKeys::from_base64(&text, &[]).is_err());
            assert!(MasterKeys::from_base64(&key(1), &[text]).is_err());
        }
    }

    #[test]
    fn each_use_and_each_master_has_its_own_key() {
        let derive = |byte, purpose| master(byte).derive(purpose).current;
        let keys = [derive(1, "a"), derive(1, "b"), derive(2, "a")];
        assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2]);
        assert_eq!(derive(1, "a"), keys[0]);
        let changed = MasterKeys::from_base64(&key(2), &[key(1)]).unwrap().derive("a");
        assert_eq!((changed.current, changed.previous), (derive(2, "a"), vec![derive(1, "a")]));
    }

    #[test]
    fn what_an_earlier_key_sealed_opens_and_the_current_one_seals() {
        let before = CredentialSealer::new(&master(1)).unwrap();
        let changed = MasterKeys::from_base64(&key(2), &[key(1)]).unwrap();
        let changed = CredentialSealer::new(&changed).unwrap();
        let after = CredentialSealer::new(&master(2)).unwrap();
        let plain = SecretString::from("s3cret");
        let old = before.seal("provider:draw", &plain).unwrap();
        assert_eq!(changed.open("provider:draw", &old).unwrap().expose_secret(), "s3cret");
        let new = changed.seal("provider:draw", &plain).unwrap();
        assert!(after.open("provider:draw", &new).is_ok() && before.open("provider:draw", &new).is_err());
        assert!(after.open("provider:draw", &old).is_err());
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
