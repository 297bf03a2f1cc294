//! The means to cut a connection under a socket whose client reads nothing: a duplicate of its stream. The
//! server itself would wait for the client until the kernel gives up, a quarter of an hour later.

use actix_web::{HttpRequest, dev::Extensions, rt::net::TcpStream};
use greenroom_actors::stream::Cut;
use std::{
    any::Any,
    net::Shutdown,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

struct KeptStream(Arc<OwnedFd>);

/// Keeps a duplicate of each connection's stream. To be given to `HttpServer::on_connect`.
pub fn keep_stream(stream: &dyn Any, data: &mut Extensions) {
    if let Some(stream) = stream.downcast_ref::<TcpStream>() {
        match stream.as_fd().try_clone_to_owned() {
            Ok(duplicate) => {
                data.insert(KeptStream(Arc::new(duplicate)));
            }
            // out of file descriptors: the connection works, it just cannot be cut
            Err(error) => tracing::warn!(%error, "a connection's stream cannot be duplicated"),
        }
    }
}

/// What cuts the connection of `request`.
pub(super) fn cut_of(request: &HttpRequest) -> Option<Cut> {
    let stream = Arc::clone(&request.conn_data::<KeptStream>()?.0);
    Some(Box::new(move || {
        let cut =
            stream.try_clone().map(|duplicate| std::net::TcpStream::from(duplicate).shutdown(Shutdown::Both));
        // an error means that it is closed already
        drop(cut);
    }))
}
