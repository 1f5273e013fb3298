//! A directory as an S3 service, for benchmarks. usage: `s3s DIR ACCESS SECRET`; prints its port, and runs until its standard input
//! ends.

#![expect(clippy::print_stdout, reason = "its port")]

use hyper_util::rt::TokioIo;
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, access, secret] = &arguments[..] else {
        return Err("usage: s3s DIR ACCESS SECRET".into());
    };
    let files = s3s_fs::FileSystem::new(dir).map_err(|error| format!("{error:?}"))?;
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(access.clone(), secret.clone()));
    let service = builder.build();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?.port());
    let serve = async {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let _ = socket.set_nodelay(true);
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service);
                // A client may disconnect at any time.
                let _ = connection.await;
            });
        }
    };
    let ended = tokio::task::spawn_blocking(|| {
        let mut input = [0; 1];
        std::io::Read::read(&mut std::io::stdin(), &mut input)
    });
    tokio::select! {
        () = serve => {}
        _ = ended => {}
    }
    Ok(())
}
