//! How the pipeline's enums stand in text columns.

use crate::pipeline::{AttemptCause, AttemptStatus, StepStatus, TaskStatus};
use tokio_postgres::types::{FromSql, Type};

/// A value read from a column that holds its name.
pub(crate) struct Named<T>(pub(crate) T);

macro_rules! named {
    ($($enum:ty),*) => {$(
        impl<'a> FromSql<'a> for Named<$enum> {
            fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
                let name = <&str>::from_sql(ty, raw)?;
                let value = <$enum>::named(name);
                value.map(Self).ok_or_else(|| format!("there is no {} `{name}`", stringify!($enum)).into())
            }

            fn accepts(ty: &Type) -> bool {
                <&str as FromSql>::accepts(ty)
            }
        }
    )*};
}

named!(TaskStatus, StepStatus, AttemptStatus, AttemptCause);
