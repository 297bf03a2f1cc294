//! `greenroom admin`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use greenroom_actors::session::{self, Role, SessionError};
use secrecy::SecretString;

use super::{block_on, settings};
use crate::app;

const PASSWORD_VARIABLE: &str = "GREENROOM_ADMIN_PASSWORD";

/// Arguments of `greenroom admin`.
#[derive(Debug, Subcommand)]
pub(super) enum Admin {
    /// Make an account that may do everything
    ///
    /// The password comes from the variable GREENROOM_ADMIN_PASSWORD, else it is asked for without echo.
    #[command(after_help = "Example: the first admin of a new installation\n  \
        greenroom admin create --phone 13800000001")]
    Create {
        /// A mainland mobile number that has no account yet
        #[arg(long)]
        phone: String,
    },
}

impl Admin {
    pub(super) fn run(&self, config: Option<PathBuf>) -> Result<ExitCode> {
        let Self::Create { phone } = self;
        let settings = settings(config)?;
        let password = password()?;
        block_on(async {
            let database = app::database(&settings.database, "admin create")?;
            let made =
                session::create_account(&database, phone, password, Role::Admin, settings.auth.bcrypt_cost)
                    .await;
            let user = made.map_err(explained)?;
            println!("made the admin {user}");
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// From the environment, else asked for twice without echo.
fn password() -> Result<SecretString> {
    if let Some(password) = std::env::var(PASSWORD_VARIABLE).ok().filter(|password| !password.is_empty()) {
        return Ok(password.into());
    }
    let ask = |prompt| {
        rpassword::prompt_password(prompt)
            .with_context(|| format!("cannot ask for a password here; set {PASSWORD_VARIABLE}"))
    };
    let password = ask("Password: ")?;
    ensure!(ask("Once more: ")? == password, "the passwords differ");
    Ok(password.into())
}

fn explained(error: SessionError) -> anyhow::Error {
    match error {
        SessionError::PhoneInvalid => {
            anyhow::anyhow!("--phone must be a mainland mobile number of 11 digits")
        }
        SessionError::PasswordWeak => {
            anyhow::anyhow!("the password must have 8 to 64 characters and at most 71 bytes")
        }
        SessionError::PhoneTaken => anyhow::anyhow!("this phone has an account already; give another"),
        other => anyhow::Error::from(other),
    }
}
