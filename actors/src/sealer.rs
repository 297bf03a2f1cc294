//! Sealing of what must be kept and not be read: credentials of providers, session keys of the mini-program.

use secrecy::SecretString;

/// Sealed bytes were not made by this key for this purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what was sealed does not open: secrets.key is not the one it was sealed with")]
pub struct SealError;

/// Seals credentials; its key never enters this crate.
pub trait Sealer: Send + Sync {
    /// Seals `plain` for `purpose`.
    ///
    /// # Errors
    /// [`SealError`] where the machine gives no randomness.
    fn seal(&self, purpose: &str, plain: &SecretString) -> Result<Vec<u8>, SealError>;

    /// Opens what was sealed for `purpose`.
    ///
    /// # Errors
    /// [`SealError`].
    fn open(&self, purpose: &str, sealed: &[u8]) -> Result<SecretString, SealError>;
}
