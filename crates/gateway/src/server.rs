//! The listeners and the life of the process.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use sagellm_executor::{SettingsError, Timeouts};
use sagellm_manager::{Config, ConfigError, HttpEngines, Shell, ShellError};
use sagellm_types::ExecutionInstance;
use sagellm_types::clock::Clock;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::GatewayConfig;
use crate::admin::Guard;
use crate::inference::Inference;
use crate::intent::Labels;
use crate::router::Routes;

/// Why a gateway could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// A setting cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The HTTP client could not be built.
    #[error(transparent)]
    Client(#[from] SettingsError),
    /// An instance could not be registered.
    #[error(transparent)]
    Instance(#[from] ShellError),
    /// An address could not be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// A gateway that listens.
pub struct Gateway {
    shell: Arc<Shell>,
    listener: TcpListener,
    admin: Option<TcpListener>,
    routes: Routes,
    drain_timeout: Duration,
    local_addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
}

impl Gateway {
    /// Starts a control plane over `instances` and listens; `serve` answers.
    ///
    /// # Errors
    /// [`GatewayError`] names the setting, the instance or the address that is wrong.
    pub async fn bind(
        config: &GatewayConfig,
        control_plane: &Config,
        instances: Vec<ExecutionInstance>,
        clock: Clock,
    ) -> Result<Self, GatewayError> {
        control_plane.validate()?;
        let engines = HttpEngines::new(&config.http, clock)?;
        let shell = Shell::start(control_plane, clock, Box::new(engines), config.probe.clone());
        Self::over(shell, config, instances).await
    }

    /// Listens for a control plane that runs already.
    ///
    /// # Errors
    /// [`GatewayError`] names the instance or the address that is wrong.
    pub async fn over(
        shell: Arc<Shell>,
        config: &GatewayConfig,
        instances: Vec<ExecutionInstance>,
    ) -> Result<Self, GatewayError> {
        for instance in instances {
            shell.register(instance)?;
        }
        let listener = listen(config.listen).await?;
        let admin = match config.admin.listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let address = |listener: &TcpListener| listener.local_addr().unwrap_or(config.listen);
        let (local_addr, admin_addr) = (address(&listener), admin.as_ref().map(address));
        let loopback = admin_addr.unwrap_or(local_addr).ip().is_loopback();
        let inference = Inference {
            shell: Arc::clone(&shell),
            limits: Timeouts::from(&config.http.timeouts),
            body_limit: config.body_limit_bytes,
            usage: config.usage,
            labels: Labels::new(),
        };
        let routes = Routes {
            inference: Arc::new(inference),
            guard: Arc::new(Guard { token: config.admin.token.clone(), loopback }),
            public: true,
            admin: admin.is_none(),
        };
        let drain_timeout = Duration::from_millis(config.drain_timeout_ms);
        Ok(Self { shell, listener, admin, routes, drain_timeout, local_addr, admin_addr })
    }

    /// Returns the address on which clients connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Returns the address of the admin API.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr.unwrap_or(self.local_addr)
    }

    /// Returns the control plane.
    pub fn shell(&self) -> Arc<Shell> {
        Arc::clone(&self.shell)
    }

    /// Answers until `shutdown` ends, then takes no more and lets running answers end.
    ///
    /// # Errors
    /// None today; a listener that fails is tried again.
    pub async fn serve(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let Self { shell, listener, admin, routes, drain_timeout, .. } = self;
        let (stop, stopped) = watch::channel(false);
        let mut accepting = vec![tokio::spawn(accept(listener, routes.clone(), stopped.clone()))];
        if let Some(admin) = admin {
            let routes = Routes { public: false, admin: true, ..routes };
            accepting.push(tokio::spawn(accept(admin, routes, stopped)));
        }
        shutdown.await;
        shell.stop();
        let _ = stop.send(true);
        let ended = async {
            for task in accepting {
                let _ = task.await;
            }
        };
        if tokio::time::timeout(drain_timeout, ended).await.is_err() {
            tracing::warn!("answers were still running after drain_timeout_ms; they are cut off");
        }
        Ok(())
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, GatewayError> {
    TcpListener::bind(address).await.map_err(|source| GatewayError::Listen { address, source })
}

/// Accepts connections until told to stop, then waits for those that are busy.
async fn accept(listener: TcpListener, routes: Routes, mut stopped: watch::Receiver<bool>) {
    /// After an error of the listener (out of file descriptors): time for others to close.
    const PAUSE: Duration = Duration::from_millis(20);
    let graceful = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
            _ = stopped.changed() => break,
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let routes = routes.clone();
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(60))
            .serve_connection(
                TokioIo::new(stream),
                service_fn(move |request| routes.clone().answer(request)),
            );
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a client's connection ended");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}
