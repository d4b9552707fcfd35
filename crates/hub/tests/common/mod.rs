//! A small Hub in this process, with faults that can be switched while it runs.

#![allow(dead_code)] // each test file uses its part

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The only token that it knows; `private/...` asks for it.
pub const TOKEN: &str = "hf_test";
/// The commit of every repository, at first.
pub const COMMIT: &str = "0123456789012345678901234567890123456789";

/// What goes wrong. All are off at first.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// This many bodies of files end halfway.
    pub cut: usize,
    /// This many bodies of files fall silent halfway.
    pub stall: usize,
    /// Nothing is ever answered.
    pub silent: bool,
    /// This many requests with this method ("" is any) get this status.
    pub status: Option<(u16, &'static str, usize)>,
    /// `Retry-After` of those.
    pub retry_after: Option<u64>,
    /// `X-Error-Code` of those.
    pub code: Option<&'static str>,
    /// A bit of every file's body is wrong.
    pub garble: bool,
    /// Files come as a web page, with status 200.
    pub page: bool,
    /// Everything, with status 200, is the web page of a portal.
    pub portal: bool,
    /// Every request is redirected to itself.
    pub circle: bool,
    /// Ranges are ignored: the whole file comes.
    pub no_ranges: bool,
    /// The listing is this text.
    pub listing: Option<String>,
    /// So many pages of the listing say that there is another one, the same again.
    pub pages: usize,
    /// No answer says how long it is.
    pub unannounced: bool,
    /// Pause after each KiB of a file.
    pub slow: Option<Duration>,
}

/// One request: method, path, `Range`, and whether it carried a token.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub if_range: Option<String>,
    pub host: String,
    pub token: bool,
    pub body: String,
}

pub struct Hub {
    pub address: String,
    port: u16,
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    commit: Mutex<String>,
    faults: Mutex<Faults>,
    log: Mutex<Vec<Asked>>,
}

impl Hub {
    /// Serves these files: `owner/name/path` or `datasets/owner/name/path`, and their contents. Every name but
    /// `nowhere` is a revision of them.
    pub fn start<'a>(files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let hub = Arc::new(Self {
            address: format!("http://127.0.0.1:{port}"),
            port,
            files: Mutex::new(files.into_iter().map(|(path, bytes)| (path.into(), bytes)).collect()),
            commit: Mutex::new(COMMIT.into()),
            faults: Mutex::default(),
            log: Mutex::default(),
        });
        let serving = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hub = serving.clone();
                std::thread::spawn(move || hub.answer(stream));
            }
        });
        hub
    }

    pub fn faults(&self, faults: Faults) {
        *self.faults.lock().unwrap() = faults;
    }

    /// A push by somebody else.
    pub fn put(&self, path: &str, bytes: Vec<u8>, commit: &str) {
        self.files.lock().unwrap().insert(path.into(), bytes);
        *self.commit.lock().unwrap() = commit.into();
    }

    /// The requests since the last call.
    pub fn log(&self) -> Vec<Asked> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut asked = read(&mut reader)?;
        let faults = {
            let mut faults = self.faults.lock().unwrap();
            let now = faults.clone();
            if let Some((_, method, n)) = &mut faults.status
                && (method.is_empty() || *method == asked.method)
            {
                *n = n.saturating_sub(1);
            }
            now
        };
        let (path, token) = (asked.path.clone(), std::mem::take(&mut asked.body));
        let (token, body) = token.split_once('\n').map(|(t, b)| (t.to_string(), b.to_string()))?;
        asked.token = !token.is_empty();
        asked.body = body.clone();
        let (method, range) = (asked.method.clone(), asked.range.clone());
        self.log.lock().unwrap().push(asked);
        let mut reply = match faults {
            Faults { silent: true, .. } => {
                std::thread::sleep(Duration::from_secs(20));
                return None;
            }
            Faults { circle: true, .. } => Reply::new(302, "").with("Location", &path),
            Faults { portal: true, .. } => Reply::new(200, "<html>log in</html>").with("Content-Type", "text/html"),
            Faults { status: Some((status, only, n)), .. } if n > 0 && (only.is_empty() || only == method) => {
                let mut reply = Reply::new(status, "<html>an error</html>").with("Content-Type", "text/html");
                if let Some(after) = faults.retry_after {
                    reply = reply.with("Retry-After", &after.to_string());
                }
                if let Some(code) = faults.code {
                    reply = reply.with("X-Error-Code", code);
                }
                reply
            }
            _ => self.route(&method, &path, &token, &body),
        };
        if let Some(from) = range.filter(|_| reply.file && !faults.no_ranges && reply.status == 200) {
            let from: usize = from.trim_start_matches("bytes=").trim_end_matches('-').parse().ok()?;
            let all = reply.body.len();
            reply = match reply.body.get(from..).filter(|rest| !rest.is_empty()) {
                None => Reply::new(416, ""),
                Some(rest) => {
                    let range = format!("bytes {from}-{}/{all}", all - 1);
                    Reply { status: 206, body: rest.to_vec(), ..reply }.with("Content-Range", &range)
                }
            };
        }
        let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
        if reply.file && method == "GET" && faults.page {
            reply = Reply { file: true, ..Reply::new(200, "<html>log in</html>") };
            head += "Content-Type: text/html\r\n";
        }
        if faults.unannounced {
            reply.headers.remove("X-Linked-Size");
        } else {
            let length = reply.body.len().to_string();
            reply = reply.with("Content-Length", &length);
        }
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        stream.write_all(head.as_bytes()).ok()?;
        if method == "HEAD" {
            return Some(());
        }
        self.send(stream, reply, faults)
    }

    fn send(&self, mut stream: TcpStream, mut reply: Reply, faults: Faults) -> Option<()> {
        let half = reply.body.len() / 2;
        if reply.file && faults.garble && half > 0 {
            reply.body[half] ^= 1;
        }
        let end = if reply.file && faults.cut + faults.stall > 0 { half } else { reply.body.len() };
        for piece in reply.body[..end].chunks(1024) {
            stream.write_all(piece).ok()?;
            faults.slow.filter(|_| reply.file).inspect(|pause| std::thread::sleep(*pause));
        }
        if reply.file && faults.cut > 0 {
            self.faults.lock().unwrap().cut -= 1;
        } else if reply.file && faults.stall > 0 {
            self.faults.lock().unwrap().stall -= 1;
            stream.flush().ok()?;
            std::thread::sleep(Duration::from_secs(20));
        }
        Some(())
    }

    fn route(&self, method: &str, path: &str, token: &str, body: &str) -> Reply {
        let commit = self.commit.lock().unwrap().clone();
        let path = path.split('?').next().unwrap_or_default();
        let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        if !token.is_empty() && token != format!("Bearer {TOKEN}") {
            return Reply::new(401, "");
        }
        if method == "POST" {
            return self.write(&parts, body);
        }
        if let ["_large", hash] = parts[..] {
            let files = self.files.lock().unwrap();
            let found = files.values().find(|bytes| hex(&Sha256::digest(bytes)) == hash);
            return found.map_or(Reply::new(404, ""), |bytes| Reply { file: true, ..Reply::new(200, bytes) });
        }
        let api = parts[0] == "api";
        let parts = if api { &parts[1..] } else { &parts[..] };
        let parts = parts.strip_prefix(&["models"]).unwrap_or(parts);
        let Some(verb) = parts.iter().position(|part| ["resolve", "revision", "tree"].contains(part)) else {
            return Reply::new(404, "");
        };
        let (repo, rest) = parts.split_at(verb);
        let repo = repo.join("/") + "/";
        let files = self.files.lock().unwrap();
        let mine: Vec<_> = files.iter().filter_map(|(path, bytes)| Some((path.strip_prefix(&repo)?, bytes))).collect();
        if token.is_empty() && (mine.is_empty() || repo.starts_with("private/")) {
            return Reply::new(401, "");
        } else if mine.is_empty() {
            return Reply::new(404, "").with("X-Error-Code", "RepoNotFound");
        } else if rest.contains(&"nowhere") {
            return Reply::new(404, "").with("X-Error-Code", "RevisionNotFound");
        }
        match rest[0] {
            "revision" => Reply::new(200, format!(r#"{{"sha": "{commit}"}}"#)),
            "tree" => {
                let files = mine.iter().map(|(path, bytes)| {
                    serde_json::json!({"type": "file", "path": path, "size": bytes.len(), "oid": etag(path, bytes)})
                });
                let mut faults = self.faults.lock().unwrap();
                let listing = faults.listing.clone();
                let reply = Reply::new(200, listing.unwrap_or_else(|| serde_json::Value::from_iter(files).to_string()));
                if faults.pages == 0 {
                    return reply;
                }
                faults.pages -= 1;
                reply.with("Link", &format!("<{}{path}>; rel=\"next\"", self.address))
            }
            _ => {
                let rest = rest[2..].join("/");
                let Some((path, bytes)) = mine.iter().find(|(path, _)| *path == rest) else {
                    return Reply::new(404, "Entry not found").with("X-Error-Code", "EntryNotFound");
                };
                let etag = etag(path, bytes);
                let quoted = format!("\"{etag}\"");
                if etag.len() == 40 {
                    let reply = Reply { file: true, ..Reply::new(200, bytes) };
                    return reply.with("X-Repo-Commit", &commit).with("ETag", &quoted);
                }
                let at = format!("http://localhost:{}/_large/{etag}", self.port);
                let reply = Reply::new(302, "").with("Location", &at).with("X-Linked-Size", &bytes.len().to_string());
                reply.with("X-Repo-Commit", &commit).with("X-Linked-ETag", &quoted)
            }
        }
    }

    fn write(&self, parts: &[&str], body: &str) -> Reply {
        if parts == ["api", "repos", "create"] {
            return Reply::new(200, format!(r#"{{"url": "{}/x"}}"#, self.address));
        } else if parts.contains(&"branch") {
            return Reply::new(200, "{}");
        } else if parts.contains(&"preupload") {
            let asked: serde_json::Value = serde_json::from_str(body).unwrap();
            let files = asked["files"].as_array().unwrap().iter();
            let files =
                files.map(|f| serde_json::json!({"path": f["path"], "uploadMode": "regular", "shouldIgnore": false}));
            return Reply::new(200, serde_json::json!({"files": files.collect::<Vec<_>>()}).to_string());
        }
        let answer = serde_json::json!({"success": true, "commitOid": COMMIT, "commitUrl": self.address});
        Reply::new(200, answer.to_string())
    }
}

struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    /// Whether the faults of files apply.
    file: bool,
}

impl Reply {
    fn new(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self { status, headers: BTreeMap::new(), body: body.as_ref().into(), file: false }
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }
}

/// A request; its body has the token as the first line.
fn read(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let (method, path) =
        line.trim().rsplit_once(' ')?.0.split_once(' ').map(|(m, p)| (m.to_string(), p.to_string()))?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_string());
    }
    let mut body = vec![0; headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let token = headers.get("authorization").cloned().unwrap_or_default();
    Some(Asked {
        method,
        path,
        range: headers.get("range").cloned(),
        if_range: headers.get("if-range").cloned(),
        host: headers.get("host").cloned().unwrap_or_default(),
        token: false,
        body: format!("{token}\n{}", String::from_utf8_lossy(&body)),
    })
}

/// What the Hub calls these contents.
pub fn etag(path: &str, bytes: &[u8]) -> String {
    if [".safetensors", ".bin", ".parquet"].iter().any(|end| path.ends_with(end)) {
        return hex(&Sha256::digest(bytes));
    }
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    hex(&sha1::Sha1::digest(blob))
}

fn decoded(path: &str) -> String {
    let mut pieces = path.split('%');
    let mut out = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        out.push(u8::from_str_radix(&piece[..2], 16).unwrap());
        out.extend_from_slice(&piece.as_bytes()[2..]);
    }
    String::from_utf8(out).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes in which no piece is like another.
pub fn bytes(n: usize) -> Vec<u8> {
    (0..n as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}
