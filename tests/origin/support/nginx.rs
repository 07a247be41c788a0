//! A real nginx as origin, with a certificate of a test CA, on free ports and in a directory of its own.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A test CA and a certificate for `localhost`, made by openssl(1) once in a run of the tests.
struct Certificates {
    directory: TempDir,
}

static CERTIFICATES: LazyLock<Certificates> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory");
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(&directory).output();
        let output = output.expect("openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca",
    );
    openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out request.pem -subj /CN=localhost",
    );
    fs::write(directory.path().join("names"), "subjectAltName=DNS:localhost").expect("a file");
    openssl("x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile names");
    Certificates { directory }
});

pub struct Nginx {
    directory: TempDir,
    child: Child,
    pub http_port: u16,
    pub https_port: u16,
    /// TLS without HTTP/2.
    pub https_1_port: u16,
}

/// One line of the access log.
#[derive(Debug)]
pub struct Access {
    pub connection: String,
    pub protocol: String,
    pub target: String,
    pub status: String,
    pub range: String,
    pub session: String,
}

impl Nginx {
    /// Serves what `put` puts. `server` is added to the configuration of its server, `HTTP` and `HTTPS` in it become
    /// the ports.
    pub fn start(server: &str) -> Self {
        // Another program may take a port between our look and nginx's: then nginx ends, and other ports are tried.
        for _ in 0..10 {
            if let Some(nginx) = Self::try_start(server) {
                return nginx;
            }
        }
        panic!("nginx does not start");
    }

    fn try_start(server: &str) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("files")).expect("a directory");
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [http_port, https_port, https_1_port] =
            listeners.map(|listener| listener.local_addr().expect("an address").port());
        let certificates = CERTIFICATES.directory.path().display();
        let server = server.replace("HTTPS", &https_port.to_string()).replace("HTTP", &http_port.to_string());
        let root = directory.path().display();
        let conf = format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;
            events {{ worker_connections 256; }}
            http {{
                log_format test '$connection|$server_protocol|$request_uri|$status|$http_range|$ssl_session_reused';
                access_log {root}/access.log test;
                client_body_temp_path {root}/1; proxy_temp_path {root}/2; fastcgi_temp_path {root}/3;
                uwsgi_temp_path {root}/4; scgi_temp_path {root}/5;
                keepalive_requests 1000000;
                server {{
                    listen 127.0.0.1:{http_port};
                    listen 127.0.0.1:{https_port} ssl http2;
                    listen 127.0.0.1:{https_1_port} ssl;
                    ssl_certificate {certificates}/cert.pem; ssl_certificate_key {certificates}/key.pem;
                    ssl_session_cache shared:s:1m;
                    root {root}/files;
                    {server}
                }}
            }}"
        );
        let conf_path = directory.path().join("nginx.conf");
        fs::write(&conf_path, conf).expect("a file");
        let binary = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].iter().find(|path| Path::new(path).exists());
        let mut child = Command::new(binary.unwrap_or(&"nginx"))
            .args(["-p".as_ref(), directory.path().as_os_str(), "-c".as_ref(), conf_path.as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx");
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", https_port)).is_err() {
            if child.try_wait().expect("wait").is_some() {
                return None;
            }
            assert!(Instant::now() < deadline, "nginx does not listen");
            std::thread::yield_now();
        }
        Some(Self { directory, child, http_port, https_port, https_1_port })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("files").join(name)
    }

    pub fn put(&self, name: &str, content: &[u8]) {
        fs::write(self.path(name), content).expect("a file");
    }

    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// By the name in the certificate.
    pub fn https(&self) -> String {
        format!("https://localhost:{}", self.https_port)
    }

    /// The same without HTTP/2.
    pub fn https_1(&self) -> String {
        format!("https://localhost:{}", self.https_1_port)
    }

    pub fn ca_file() -> PathBuf {
        CERTIFICATES.directory.path().join("ca.pem")
    }

    pub fn accesses(&self, least: usize) -> Vec<Access> {
        // nginx writes a request's line after its answer.
        let deadline = Instant::now() + Duration::from_secs(20);
        let log = loop {
            let log = fs::read_to_string(self.directory.path().join("access.log")).expect("an access log");
            if log.matches('\n').count() >= least || Instant::now() > deadline {
                break log;
            }
            thread::sleep(Duration::from_millis(5));
        };
        log.lines()
            .map(|line| {
                let fields: Vec<_> = line.split('|').map(str::to_owned).collect();
                let [connection, protocol, target, status, range, session] =
                    fields.try_into().expect("the fields of the log format");
                Access { connection, protocol, target, status, range, session }
            })
            .collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
