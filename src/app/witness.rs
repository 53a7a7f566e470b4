//! A witness: a process without items and clients that only says who may serve.

use std::net::SocketAddr;

use tandem_replication::driver::witness::{self, WitnessConfig};
use tandem_replication::keys::{KeyFiles, Keys, SharedKeys};
use tandem_replication::transport;

use super::pair::addresses;
use crate::config::Config;

/// A witness whose sockets are bound; see [`tandem_replication::driver::witness`].
#[derive(Debug)]
pub struct Witness {
    config: WitnessConfig,
    files: KeyFiles,
}

/// Reads the keys again.
#[derive(Debug)]
pub struct Reload {
    keys: SharedKeys,
    files: KeyFiles,
}

impl Witness {
    /// Binds its sockets and reads its keys, or says what is wrong.
    pub fn bind(config: &Config) -> Result<Self, String> {
        let (Some(pair), Some(witness)) = (&config.pair, &config.witness) else {
            return Err("--witness: say where it listens".to_owned());
        };
        let keys = SharedKeys::new(Keys::read(&pair.keys)?);
        let listeners = transport::bind(&addresses(&pair.listen, pair.port)?)?;
        let config = WitnessConfig { listeners, keys, state_dir: witness.state_dir.clone() };
        Ok(Self { config, files: pair.keys.clone() })
    }

    /// Where nodes may ask it.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.config.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// For SIGHUP.
    pub fn reload(&self) -> Reload {
        Reload { keys: self.config.keys.clone(), files: self.files.clone() }
    }

    /// Answers for ever.
    pub async fn serve(self) -> Result<(), String> {
        witness::serve(self.config).await
    }
}

impl Reload {
    /// New connections are proven with what the files hold now.
    pub fn again(&self) {
        match Keys::read(&self.files) {
            Ok(keys) => self.keys.replace(keys),
            Err(problem) => tracing::error!("{problem}; the keys of before stay in force"),
        }
    }
}
