//! Access tokens: who somebody is and what they may do, signed, for a quarter of an hour.
//!
//! HS256 and nothing else. A token names its key (`kid`), so that the secret can be changed: tokens of earlier
//! secrets verify until they expire, new ones are signed with the current one. HTTP and sockets verify here.

use super::Role;
use crate::ids::{SessionId, UserId};
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::time::Duration;
use uuid::Uuid;

/// Clocks of two machines may differ by this much, seconds.
const LEEWAY_S: u64 = 30;
/// Longer than any token of ours; longer ones are not looked at.
const LONGEST_TOKEN: usize = 2048;

/// How tokens are made.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// Signs new tokens.
    pub secret: SecretString,
    /// Earlier secrets, whose tokens still verify.
    pub previous: Vec<SecretString>,
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// Age of a token, seconds.
    pub lifetime_s: u32,
}

/// What a verified token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Whose it is.
    pub user: UserId,
    /// What they may do.
    pub role: Role,
    /// The session it belongs to.
    pub session: SessionId,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

/// A fresh token.
#[derive(Clone)]
pub struct AccessToken {
    /// The bearer token; never to be logged.
    pub token: SecretString,
    /// Its age in seconds.
    pub lifetime_s: u32,
}

/// The token is not one of ours, or has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the access token is not valid")]
pub struct InvalidToken;

/// The claims as they stand in a token.
#[derive(Serialize, Deserialize)]
struct WireClaims {
    sub: UserId,
    role: Role,
    sid: SessionId,
    jti: Uuid,
    iat: i64,
    exp: i64,
    iss: String,
    aud: String,
}

struct Key {
    id: String,
    decoding: DecodingKey,
}

/// Makes and verifies access tokens.
pub struct AccessTokens {
    header: Header,
    signing: EncodingKey,
    keys: Vec<Key>,
    validation: Validation,
    issuer: String,
    audience: String,
    lifetime_s: u32,
}

impl AccessTokens {
    /// How long after it was given a token of this lifetime, in seconds, is taken: clocks may differ a little.
    #[must_use]
    pub fn taken_for(lifetime_s: u32) -> Duration {
        Duration::from_secs(u64::from(lifetime_s) + LEEWAY_S)
    }

    /// With these secrets; the current one is tried first.
    #[must_use]
    pub fn new(settings: &TokenSettings) -> Self {
        let secrets = std::iter::once(&settings.secret).chain(&settings.previous);
        let keys: Vec<Key> = secrets
            .map(|secret| Key {
                id: key_id(secret),
                decoding: DecodingKey::from_secret(secret.expose_secret().as_bytes()),
            })
            .collect();
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(key_id(&settings.secret));
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_S;
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[&settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        Self {
            header,
            signing: EncodingKey::from_secret(settings.secret.expose_secret().as_bytes()),
            keys,
            validation,
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            lifetime_s: settings.lifetime_s,
        }
    }

    /// A token that says this from `now` on.
    ///
    /// # Errors
    /// Where the signature cannot be made; a defect.
    pub fn issue(
        &self,
        user: UserId,
        role: Role,
        session: SessionId,
        now: DateTime<Utc>,
    ) -> Result<AccessToken, jsonwebtoken::errors::Error> {
        let claims = WireClaims {
            sub: user,
            role,
            sid: session,
            jti: Uuid::now_v7(),
            iat: now.timestamp(),
            exp: (now + TimeDelta::seconds(i64::from(self.lifetime_s))).timestamp(),
            iss: self.issuer.clone(),
            aud: self.audience.clone(),
        };
        let token = encode(&self.header, &claims, &self.signing)?.into();
        Ok(AccessToken { token, lifetime_s: self.lifetime_s })
    }

    /// What `token` says, if it is one of ours and has not expired.
    ///
    /// # Errors
    /// [`InvalidToken`], without a reason: whoever forged it learns nothing.
    pub fn verify(&self, token: &str) -> Result<Claims, InvalidToken> {
        if token.len() > LONGEST_TOKEN {
            return Err(InvalidToken);
        }
        let header = decode_header(token).map_err(|_| InvalidToken)?;
        let key = self.keys.iter().find(|key| header.kid.as_ref() == Some(&key.id)).ok_or(InvalidToken)?;
        let claims =
            decode::<WireClaims>(token, &key.decoding, &self.validation).map_err(|_| InvalidToken)?.claims;
        let expires_at = DateTime::from_timestamp(claims.exp, 0).ok_or(InvalidToken)?;
        Ok(Claims { user: claims.sub, role: claims.role, session: claims.sid, expires_at })
    }
}

/// Names a secret without telling anything of it.
fn key_id(secret: &SecretString) -> String {
    let mut hasher = Sha256::new();
    hasher.update(b"greenroom access token key\0");
    hasher.update(secret.expose_secret());
    hex::encode(&hasher.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

    fn settings(secret: &str, previous: &[&str]) -> TokenSettings {
        TokenSettings {
            secret: secret.into(),
            previous: previous.iter().map(|secret| (*secret).into()).collect(),
            issuer: "greenroom".to_owned(),
            audience: "greenroom".to_owned(),
            lifetime_s: 900,
        }
    }

    fn issue(tokens: &AccessTokens, age_s: i64) -> String {
        let now = SystemClock.now() - TimeDelta::seconds(age_s);
        let token = tokens.issue(UserId::new(), Role::User, SessionId::new(), now).unwrap();
        token.token.expose_secret().to_owned()
    }

    #[test]
    fn a_token_says_what_was_put_into_it() {
        let tokens = AccessTokens::new(&settings("a secret of thirty-two bytes ....", &[]));
        let (user, session, now) = (UserId::new(), SessionId::new(), SystemClock.now());
        let token = tokens.issue(user, Role::Support, session, now).unwrap();
        let claims = tokens.verify(token.token.expose_secret()).unwrap();
        assert_eq!((claims.user, claims.role, claims.session), (user, Role::Support, session));
        assert_eq!(claims.expires_at.timestamp(), now.timestamp() + 900);
    }

    #[test]
    fn an_expired_token_is_refused_after_the_leeway() {
        let tokens = AccessTokens::new(&settings("a secret of thirty-two bytes ....", &[]));
        assert!(tokens.verify(&issue(&tokens, 900 + 20)).is_ok());
        assert_eq!(tokens.verify(&issue(&tokens, 900 + 40)), Err(InvalidToken));
    }

    #[test]
    fn tokens_of_a_previous_secret_verify_and_those_of_a_removed_one_do_not() {
        let old = issue(&AccessTokens::new(&settings("old secret of thirty-two bytes ..", &[])), 0);
        let rotated = settings("new secret of thirty-two bytes ..", &["old secret of thirty-two bytes .."]);
        assert!(AccessTokens::new(&rotated).verify(&old).is_ok());
        let removed = settings("new secret of thirty-two bytes ..", &[]);
        assert_eq!(AccessTokens::new(&removed).verify(&old), Err(InvalidToken));
    }

    #[test]
    fn a_token_of_another_issuer_or_audience_is_refused() {
        let ours = settings("a secret of thirty-two bytes ....", &[]);
        for theirs in [
            TokenSettings { issuer: "other".to_owned(), ..ours.clone() },
            TokenSettings { audience: "other".to_owned(), ..ours.clone() },
        ] {
            let token = issue(&AccessTokens::new(&theirs), 0);
            assert_eq!(AccessTokens::new(&ours).verify(&token), Err(InvalidToken));
        }
    }

    #[test]
    fn a_forged_token_is_refused() {
        let tokens = AccessTokens::new(&settings("a secret of thirty-two bytes ....", &[]));
        let token = issue(&tokens, 0);
        let parts: Vec<&str> = token.split('.').collect();
        let header: serde_json::Value =
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(parts[0]).unwrap()).unwrap();
        let with_algorithm = |algorithm: &str| {
            let mut header = header.clone();
            header["alg"] = algorithm.into();
            BASE64_URL_SAFE_NO_PAD.encode(header.to_string())
        };
        let mut claims: serde_json::Value =
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        claims["role"] = "admin".into();
        let promoted = BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
        for forged in [
            format!("{}.{}.", with_algorithm("none"), parts[1]),
            format!("{}.{}.{}", with_algorithm("HS512"), parts[1], parts[2]),
            format!("{}.{promoted}.{}", parts[0], parts[2]),
            format!("{}.{}.", parts[0], parts[1]),
            String::new(),
            "a.b.c".to_owned(),
            "x".repeat(LONGEST_TOKEN + 1),
        ] {
            assert_eq!(tokens.verify(&forged), Err(InvalidToken), "{forged}");
        }
    }
}
