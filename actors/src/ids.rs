//! Identifiers, one type a thing, so that a task's id is never passed for a user's.
//!
//! New ids are UUIDv7: they sort by creation, which lets tables with history be partitioned by id.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, private::BytesMut};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh id that sorts after those made before it.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "two calls differ; a default would not say so")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl ToSql for $name {
            fn to_sql(
                &self,
                ty: &Type,
                out: &mut BytesMut,
            ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
                self.0.to_sql(ty, out)
            }

            fn accepts(ty: &Type) -> bool {
                <Uuid as ToSql>::accepts(ty)
            }

            tokio_postgres::types::to_sql_checked!();
        }

        impl<'a> FromSql<'a> for $name {
            fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
                Uuid::from_sql(ty, raw).map(Self)
            }

            fn accepts(ty: &Type) -> bool {
                <Uuid as FromSql>::accepts(ty)
            }
        }
    };
}

id! {
    /// A registered person.
    UserId
}
id! {
    /// One run of a pipeline for one user.
    TaskId
}
id! {
    /// A pipeline, over all its versions.
    PipelineId
}
id! {
    /// One call of a provider.
    AttemptId
}
id! {
    /// A stored picture or other object.
    FileId
}
id! {
    /// Quota that came in at once.
    GrantId
}
id! {
    /// One process start of the service; the owner of the tasks it runs.
    OwnerId
}
id! {
    /// One sign-in of one user on one device.
    SessionId
}
id! {
    /// A key by which programs call in a user's name.
    ApiKeyId
}
