//! The servers that are compared, each with its processes.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cost::family;
use crate::load::Protocol;
use crate::process::{Process, free_port};

/// Whose gfserver a GETFILE server is linked with.
#[derive(Clone, Debug)]
pub struct Build {
    /// `own` or `provided`.
    pub gfserver: &'static str,
    /// Where `make` put the programs.
    pub programs: PathBuf,
}

/// A running server.
pub struct Server {
    /// Its name in the results.
    pub name: String,
    pub protocol: Protocol,
    /// More than one only where several proxies share a daemon, or several servers make up one contestant.
    pub ports: Vec<u16>,
    /// The processes that serve; what stands behind them, such as the origin, is not among them.
    processes: Vec<Process>,
}

impl Server {
    /// All processes that serve, children included.
    pub fn processes(&self) -> Vec<u32> {
        family(&self.processes.iter().map(Process::id).collect::<Vec<_>>())
    }
}

/// The shape of a Part 2.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    /// Segments; the default of webproxy where `None`.
    pub segments: Option<u32>,
    /// Bytes in a segment; the default of webproxy where `None`.
    pub segment_size: Option<u32>,
    /// Proxies that share one daemon.
    pub proxies: usize,
    /// Worker threads of each proxy and of the daemon; the defaults where `None`.
    pub threads: Option<(u32, u32)>,
}

impl Channel {
    pub const DEFAULT: Self = Self { segments: None, segment_size: None, proxies: 1, threads: None };
}

/// Where everything is.
pub struct Place {
    /// The files, as the origin's root and the sendfile bound's directory.
    pub files: PathBuf,
    /// Configurations, sockets, caches and logs.
    pub scratch: PathBuf,
}

impl Place {
    fn log(&self, name: &str) -> String {
        name.replace([' ', '(', ')', ','], "_")
    }

    fn spawn<A: AsRef<OsStr>>(&self, name: &str, program: &Path, arguments: &[A]) -> Result<Process, String> {
        // Ends the server with the benchmark, also when that is itself killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(program).args(arguments);
        Process::spawn(&self.log(name), &mut command, &self.scratch)
    }

    fn server(&self, name: &str, protocol: Protocol, port: u16, mut process: Process) -> Result<Server, String> {
        process.wait_for_port(port)?;
        Ok(Server { name: name.to_owned(), protocol, ports: vec![port], processes: vec![process] })
    }

    /// simplecached with the catalog `locals`, and webproxy in front of it.
    pub fn part2(&self, name: &str, build: &Build, locals: &Path, channel: Channel) -> Result<Server, String> {
        let socket = self.scratch.join(format!("{}-{}.sock", self.log(name), free_port()?));
        let threads = |number: Option<u32>| number.into_iter().flat_map(|t| ["-t".to_owned(), t.to_string()]);
        let mut options =
            vec!["-c".to_owned(), locals.display().to_string(), "-S".to_owned(), socket.display().to_string()];
        options.extend(threads(channel.threads.map(|(_, daemon)| daemon)));
        let program = build.programs.join("simplecached_noasan");
        let mut daemon = self.spawn(&format!("{name} simplecached"), &program, &options)?;
        daemon.wait_for_file(&socket)?;
        let (mut ports, mut processes) = (Vec::new(), vec![daemon]);
        for proxy in 0..channel.proxies {
            let port = free_port()?;
            let mut options = vec!["-p".to_owned(), port.to_string(), "-S".to_owned(), socket.display().to_string()];
            options.extend(channel.segments.into_iter().flat_map(|n| ["-n".to_owned(), n.to_string()]));
            options.extend(channel.segment_size.into_iter().flat_map(|z| ["-z".to_owned(), z.to_string()]));
            options.extend(threads(channel.threads.map(|(proxy, _)| proxy)));
            let name = format!("{name} webproxy {proxy}");
            processes.push(self.spawn(&name, &build.programs.join("webproxy_noasan"), &options)?);
            ports.push(port);
        }
        for (&port, process) in ports.iter().zip(&mut processes[1..]) {
            process.wait_for_port(port)?;
        }
        Ok(Server { name: name.to_owned(), protocol: Protocol::Getfile, ports, processes })
    }

    /// webproxy as a relay to the origin.
    pub fn part1(&self, name: &str, build: &Build, origin: u16) -> Result<Server, String> {
        self.relay(name, build, "webproxy_noasan", origin)
    }

    /// The same gfserver with a handler that is nothing but libcurl.
    pub fn relay_bound(&self, name: &str, build: &Build, origin: u16) -> Result<Server, String> {
        self.relay(name, build, "relay", origin)
    }

    fn relay(&self, name: &str, build: &Build, program: &str, origin: u16) -> Result<Server, String> {
        let port = free_port()?;
        let options = ["-p", &port.to_string(), "-s", &format!("http://127.0.0.1:{origin}")];
        let process = self.spawn(name, &build.programs.join(program), &options)?;
        self.server(name, Protocol::Getfile, port, process)
    }

    /// The same gfserver with a handler that is nothing but sendfile.
    pub fn bound(&self, name: &str, build: &Build) -> Result<Server, String> {
        self.file_server(name, build, "sendfile")
    }

    /// Several of them, as one contestant.
    pub fn bounds(&self, name: &str, build: &Build, count: usize) -> Result<Server, String> {
        let mut all = self.bound(name, build)?;
        for _ in 1..count {
            let Server { ports, processes, .. } = self.bound(name, build)?;
            all.ports.extend(ports);
            all.processes.extend(processes);
        }
        Ok(all)
    }

    /// A server that does nothing but answer.
    pub fn bare(&self, name: &str, build: &Build) -> Result<Server, String> {
        self.file_server(name, build, "bare")
    }

    fn file_server(&self, name: &str, build: &Build, program: &str) -> Result<Server, String> {
        let port = free_port()?;
        let options = ["-p", &port.to_string(), "-d", &self.files.display().to_string()];
        let process = self.spawn(name, &build.programs.join(program), &options)?;
        self.server(name, Protocol::Getfile, port, process)
    }

    /// nginx serving the files: a contestant, and the origin of the others.
    pub fn nginx_static(&self, name: &str) -> Result<Server, String> {
        let root = self.files.display();
        self.nginx(name, "", &format!("root {root}; open_file_cache max=1000 inactive=1h;"))
    }

    /// nginx with its cache on disk, which here is the page cache.
    pub fn nginx_cache(&self, name: &str, origin: u16) -> Result<Server, String> {
        let cache = self.scratch.join("nginx-cache");
        let http = format!(
            "proxy_cache_path {} levels=1:2 keys_zone=bench:10m max_size=4g inactive=1h use_temp_path=off;
             open_file_cache max=1000 inactive=1h;",
            cache.display()
        );
        let server = format!("proxy_cache bench; proxy_cache_valid 200 1h; {}", upstream(origin).1);
        self.nginx(name, &format!("{http} {}", upstream(origin).0), &server)
    }

    /// nginx as a relay that keeps its connections to the origin.
    pub fn nginx_pass(&self, name: &str, origin: u16) -> Result<Server, String> {
        let (http, server) = upstream(origin);
        self.nginx(name, &http, &format!("{server} proxy_max_temp_file_size 0;"))
    }

    fn nginx(&self, name: &str, http: &str, server: &str) -> Result<Server, String> {
        let port = free_port()?;
        let prefix = self.scratch.join(self.log(name));
        fs::create_dir_all(&prefix).map_err(|e| e.to_string())?;
        let configuration = prefix.join("nginx.conf");
        // Without the right to change it, nginx ignores the user with a warning.
        let text = format!(
            "daemon off; user root; worker_processes auto; pid nginx.pid; error_log stderr;
             events {{ worker_connections 4096; }}
             http {{
                 access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
                 client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
                 scgi_temp_path scgi;
                 {http}
                 server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ {server} }} }}
             }}"
        );
        fs::write(&configuration, text).map_err(|e| e.to_string())?;
        let arguments = [OsStr::new("-p"), prefix.as_os_str(), OsStr::new("-c"), configuration.as_os_str()];
        let process = self.spawn(name, &program("nginx"), &arguments)?;
        self.server(name, Protocol::Http, port, process)
    }

    /// Varnish with its storage in memory.
    pub fn varnish(&self, name: &str, origin: u16) -> Result<Server, String> {
        let port = free_port()?;
        let (listen, backend) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{origin}"));
        let home = self.scratch.join("varnish").display().to_string();
        let arguments = ["-F", "-j", "none", "-T", "none", "-n", &home, "-a", &listen, "-b", &backend];
        let storage = ["-s", "malloc,1g", "-t", "86400"];
        let process = self.spawn(name, &program("varnishd"), &[&arguments[..], &storage].concat())?;
        self.server(name, Protocol::Http, port, process)
    }
}

/// The configuration of a relay to `origin` that keeps its connections: for the http block, and for a location.
fn upstream(origin: u16) -> (String, String) {
    let http = format!("upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; }}");
    let location = "proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\";";
    (http, location.to_owned())
}

/// Where Debian puts servers, which is not in every user's PATH.
pub fn program(name: &str) -> PathBuf {
    let system = Path::new("/usr/sbin").join(name);
    if system.exists() { system } else { PathBuf::from(name) }
}
