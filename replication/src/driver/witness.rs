//! A witness: a third process that has no items and no clients, only one lease ([`Register`]), and how
//! nodes ask it.
//!
//! A connection begins as all do, with a proof of the pair's key; then questions and answers, each
//! behind its length in two bytes. With several witnesses a node has the lease when most of them say so.
//!
//! The promise: what a witness gave it has saved before it says so, and a witness that is started
//! again waits out whatever it may have given.

use std::io;
use std::net::TcpListener as StdListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::doors::{Introduction, Unproven};
use super::{Arbitrate, BoxFuture, now};
use crate::arbiter::{Ask, Asker, Outcome, Register, SavedRegister, Wish};
use crate::channel::Channel;
use crate::frame::{self, Hello};
use crate::handshake::{Handshake, Kind, Opening, Refusal, Side, verdict};
use crate::keys::{Keys, SharedKeys};
use crate::state::{StateDirectory, StateError};
use crate::transport::{self, GreetError, PeerAddress, Resolver};
use crate::wire;

/// No question and no answer is longer.
const MESSAGE_BYTES_MAX: usize = 256;
/// A node that asks nothing for so long is gone; it looks more often than that.
const IDLE: Duration = Duration::from_secs(180);
/// How long to wait when the system has no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Seen by nobody: the proofs are what counts.
const SILENCE: Duration = Duration::from_secs(10);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) asker: Asker,
    pub(super) ask: Ask,
}

async fn send<T: Serialize>(channel: &mut Channel, message: &T) -> io::Result<()> {
    let bytes = wire::encode(message).map_err(io::Error::other)?;
    channel.write_u16_le(bytes.len() as u16).await?;
    channel.write_all(&bytes).await?;
    channel.flush().await
}

async fn receive<T: DeserializeOwned>(channel: &mut Channel) -> io::Result<T> {
    let length = usize::from(channel.read_u16_le().await?);
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    channel.read_exact(&mut bytes).await?;
    wire::decode(&bytes).map_err(io::Error::other)
}

fn introduce(node_id: u128, boot_id: u64) -> Vec<u8> {
    let hello = Hello {
        version_min: frame::VERSION_MIN,
        version_max: frame::VERSION,
        features: 0,
        link: None,
        node_id,
        boot_id,
        epoch: 0,
        client_port: 0,
        release: env!("CARGO_PKG_VERSION").to_string(),
    };
    wire::encode(&Introduction { hello, replication_port: 0 }).unwrap_or_default()
}

/// One or more witnesses, as a node asks them.
#[derive(Debug)]
pub struct Witnesses {
    list: Vec<Arc<Witness>>,
}

#[derive(Debug)]
struct Witness {
    address: PeerAddress,
    keys: SharedKeys,
    /// Away while it is in use; a question that is given up takes it with it.
    channel: Mutex<Option<Channel>>,
}

impl Witnesses {
    /// At these addresses, with the keys in force when they are asked.
    pub fn new(addresses: Vec<PeerAddress>, keys: &SharedKeys) -> Self {
        let witness = |address| Witness { address, keys: keys.clone(), channel: Mutex::default() };
        Self { list: addresses.into_iter().map(|address| Arc::new(witness(address))).collect() }
    }

    async fn ask_all(&self, asker: Asker, ask: Ask) -> Vec<(usize, Outcome)> {
        let mut questions = JoinSet::new();
        for (index, witness) in self.list.iter().cloned().enumerate() {
            questions.spawn(async move {
                let outcome = witness.ask(asker, ask).await;
                if let Err(why) = &outcome {
                    tracing::debug!("witness {}: {why}", witness.address);
                }
                (index, outcome.unwrap_or(Outcome::Silent))
            });
        }
        let mut outcomes = Vec::new();
        let most = self.list.len() / 2 + 1;
        let count =
            |outcomes: &[(usize, Outcome)], what| outcomes.iter().filter(|(_, one)| *one == what).count();
        // The slowest need not be waited for.
        while let Some(outcome) = questions.join_next().await {
            outcomes.extend(outcome.ok());
            if count(&outcomes, Outcome::Granted) >= most || count(&outcomes, Outcome::Heard) >= most {
                questions.detach_all();
                break;
            }
        }
        outcomes
    }
}

impl Arbitrate for Witnesses {
    fn ask(&self, asker: Asker, ask: Ask) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let outcomes = self.ask_all(asker, ask).await;
            let most = self.list.len() / 2 + 1;
            let count = |what| outcomes.iter().filter(|(_, outcome)| *outcome == what).count();
            match ask.wish {
                Wish::Hold(_) if count(Outcome::Granted) >= most => Outcome::Granted,
                Wish::Hold(_) => {
                    // What some gave must not stand in the other node's way.
                    let release = Ask { wish: Wish::Release, ..ask };
                    for (index, outcome) in &outcomes {
                        if *outcome == Outcome::Granted {
                            let _ = self.list[*index].ask(asker, release).await;
                        }
                    }
                    if count(Outcome::Refused) > 0 { Outcome::Refused } else { Outcome::Silent }
                }
                Wish::Look | Wish::Release if count(Outcome::Heard) >= most => Outcome::Heard,
                Wish::Look | Wish::Release => Outcome::Silent,
            }
        })
    }

    fn name(&self) -> String {
        let names: Vec<_> = self.list.iter().map(|witness| witness.address.to_string()).collect();
        format!("witness {}", names.join(", "))
    }
}

impl Witness {
    async fn ask(&self, asker: Asker, ask: Ask) -> Result<Outcome, String> {
        let known = self.channel.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut channel) = known
            && let Ok(outcome) = Self::put(&mut channel, asker, ask).await
        {
            *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel);
            return Ok(outcome);
        }
        let mut channel = self.connect(asker).await?;
        let outcome = Self::put(&mut channel, asker, ask).await.map_err(|why| why.to_string())?;
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel);
        Ok(outcome)
    }

    async fn put(channel: &mut Channel, asker: Asker, ask: Ask) -> io::Result<Outcome> {
        send(channel, &Question { asker, ask }).await?;
        receive(channel).await
    }

    async fn connect(&self, asker: Asker) -> Result<Channel, String> {
        let addresses = Resolver::new(self.address.clone()).resolve().await?;
        let mut failure = String::new();
        for address in addresses {
            let stream = match transport::connect(address, None, SILENCE).await {
                Ok(stream) => stream,
                Err(why) => {
                    failure = why.to_string();
                    continue;
                }
            };
            let connected = async {
                transport::tune(&stream, SILENCE)?;
                let mut channel = Channel::from(stream);
                let keys = self.keys.now().for_host(&self.address.host);
                let opening = Opening::new(Kind::Witness, 0, transport::nonce()?);
                let hello = introduce(asker.node, asker.boot);
                let handshake = Handshake::dialler(keys.secrets.clone(), opening, hello);
                transport::greet(&mut channel, Side::Dialler, &keys, handshake).await?;
                transport::await_verdict(&mut channel).await?;
                Ok::<_, GreetError>(channel)
            };
            match connected.await {
                Ok(channel) => return Ok(channel),
                Err(why) => failure = why.to_string(),
            }
        }
        Err(failure)
    }
}

/// How a witness is run.
#[derive(Debug)]
pub struct WitnessConfig {
    /// Where nodes may ask; see [`transport::bind`].
    pub listeners: Vec<StdListener>,
    /// What nodes and witness prove themselves with.
    pub keys: SharedKeys,
    /// Where it keeps what it must not forget.
    pub state_dir: PathBuf,
}

/// The lease, and the disk it is on.
#[derive(Debug)]
struct Desk {
    register: Register,
    /// What is not on disk yet.
    unsaved: Option<SavedRegister>,
    directory: Arc<StateDirectory>,
}

impl Desk {
    fn open(path: &std::path::Path) -> Result<Self, String> {
        let directory = Arc::new(StateDirectory::open(path).map_err(|why| why.to_string())?);
        let register = match directory.load() {
            Ok(None) => Register::default(),
            Ok(Some(bytes)) => match wire::decode::<SavedRegister>(&bytes) {
                Ok(saved) => Register::restored(saved, now()),
                Err(why) => return Err(format!("{}: {why}; it is no witness's", path.display())),
            },
            // To whom it gave its word is unknown: it waits until that has run out for certain.
            Err(why @ (StateError::Corrupt(..) | StateError::Read(..))) => {
                tracing::error!("{why}; nobody is granted anything for a minute");
                Register::forgetful(now())
            }
            Err(why) => return Err(why.to_string()),
        };
        Ok(Self { register, unsaved: None, directory })
    }

    async fn answer(&mut self, question: &Question) -> Outcome {
        let holder = |desk: &Self| desk.register.held(now()).map(|(node, _)| node);
        let before = holder(self);
        let (outcome, unsaved) = self.register.ask(question.asker, question.ask, now());
        match holder(self) {
            after if after == before => {}
            Some(node) => tracing::info!("node {node:032x} may serve alone"),
            None => tracing::info!("nobody needs to serve alone any more"),
        }
        self.unsaved = unsaved.or(self.unsaved);
        match self.unsaved {
            // Only what was given must not be forgotten.
            Some(unsaved) if outcome == Outcome::Granted => self.save(unsaved).await,
            _ => outcome,
        }
    }

    async fn save(&mut self, unsaved: SavedRegister) -> Outcome {
        let directory = Arc::clone(&self.directory);
        let bytes = wire::encode(&unsaved).unwrap_or_default();
        let saved = tokio::task::spawn_blocking(move || directory.save(&bytes)).await;
        match saved {
            Ok(Ok(())) => {
                self.unsaved = None;
                Outcome::Granted
            }
            Ok(Err(why)) => {
                tracing::error!("{why}; nobody is granted anything until it can be written");
                Outcome::Silent
            }
            Err(_) => Outcome::Silent,
        }
    }
}

/// Answers until it is dropped.
pub async fn serve(config: WitnessConfig) -> Result<(), String> {
    let desk = Arc::new(tokio::sync::Mutex::new(Desk::open(&config.state_dir)?));
    let unproven = Unproven::new();
    let mut doors = JoinSet::new();
    for listener in config.listeners {
        let listener = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
        let listener = listener.map_err(|why| format!("cannot listen: {why}"))?;
        let (desk, keys, unproven) = (Arc::clone(&desk), config.keys.clone(), unproven.clone());
        doors.spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, address)) => {
                        let (desk, keys, log) = (Arc::clone(&desk), keys.clone(), unproven.log.clone());
                        let task = tokio::spawn(async move {
                            match greet(stream, &keys.now().for_anybody()).await {
                                // From here on it is no stranger, and the place is free.
                                Ok(channel) => drop(tokio::spawn(attend(channel, desk))),
                                Err(GreetError::Io(_)) => {}
                                Err(why) => {
                                    let text = format!("refused a connection from {}: {why}", address.ip());
                                    log.lock().unwrap_or_else(PoisonError::into_inner).say(
                                        "stranger",
                                        |more| {
                                            tracing::warn!("{text}{more}");
                                        },
                                    );
                                }
                            }
                        });
                        unproven.admit(task.abort_handle());
                    }
                    Err(why) => {
                        tracing::warn!("cannot accept connections: {why}");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
    }
    while doors.join_next().await.is_some() {}
    Ok(())
}

async fn greet(stream: TcpStream, keys: &Keys) -> Result<Channel, GreetError> {
    let mut channel = Channel::from(stream);
    transport::tune(&channel.stream, SILENCE)?;
    let opening = Opening::new(Kind::Witness, 0, transport::nonce()?);
    let handshake = Handshake::acceptor(keys.secrets.clone(), opening, introduce(1, 1));
    let agreed = transport::greet(&mut channel, Side::Acceptor, keys, handshake).await?;
    let welcome = if agreed.kind == Kind::Witness { Ok(()) } else { Err(Refusal::NoWitness) };
    channel.try_send(&verdict(welcome));
    match welcome {
        Ok(()) => Ok(channel),
        Err(refusal) => Err(crate::handshake::HandshakeError::Refusing(refusal).into()),
    }
}

async fn attend(mut channel: Channel, desk: Arc<tokio::sync::Mutex<Desk>>) {
    while let Ok(Ok(question)) = timeout(IDLE, receive::<Question>(&mut channel)).await {
        // One after the other: a disk that takes long delays everybody, and nobody is told too much.
        let outcome = desk.lock().await.answer(&question).await;
        if send(&mut channel, &outcome).await.is_err() {
            return;
        }
    }
}
