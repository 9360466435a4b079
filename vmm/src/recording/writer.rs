//! The thread that writes a recording's file, so that whoever makes an access only appends to memory.
//!
//! A buffer that is full changes hands for an empty one. There are so many of them and no more: when the disk is behind
//! and none is empty, the guest waits until one is. Nothing is lost, but what is in buffers when the process is killed.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Bytes of a buffer.
pub(super) const BUFFER_BYTES: usize = 256 << 10;
/// How many buffers there are, that of the recorder included.
const BUFFERS: usize = 16;

/// What the thread is told.
enum Order {
    /// Write these bytes at the end, and give the buffer back.
    Append(Vec<u8>),
    /// Write these over the file's first ones, and say when all is done.
    Finish(Vec<u8>, Sender<()>),
}

/// The thread; it ends with this.
#[derive(Debug)]
pub(super) struct Writer {
    orders: Option<Sender<Order>>,
    empty: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Writer {
    /// Starts it. The first buffer is for the caller.
    pub(super) fn start(file: File) -> io::Result<(Self, Vec<u8>)> {
        let (orders, inbox) = channel();
        let (give_back, empty) = channel();
        for _ in 1..BUFFERS {
            // The receiver is here. A buffer takes memory when it is first written to.
            let _ = give_back.send(Vec::with_capacity(BUFFER_BYTES)).is_ok();
        }
        let thread = std::thread::Builder::new()
            .name("recording".to_owned())
            .spawn(move || serve(file, &inbox, &give_back))?;
        let writer = Self {
            orders: Some(orders),
            empty,
            thread: Some(thread),
        };
        Ok((writer, Vec::with_capacity(BUFFER_BYTES)))
    }

    /// Takes a full buffer for an empty one; waits if there is none.
    ///
    /// # Errors
    /// The file could not be written; nothing more is.
    #[cold]
    pub(super) fn swap(&mut self, full: Vec<u8>) -> io::Result<Vec<u8>> {
        let is_sent = self
            .orders
            .as_ref()
            .is_some_and(|orders| orders.send(Order::Append(full)).is_ok());
        match self.empty.recv() {
            Ok(buffer) if is_sent => Ok(buffer),
            _ => Err(self.failure()),
        }
    }

    /// Waits until everything is in the file, `header` as its first bytes.
    ///
    /// # Errors
    /// As [`Self::swap`].
    pub(super) fn finish(&mut self, header: Vec<u8>) -> io::Result<()> {
        let (done, is_done) = channel();
        match &self.orders {
            // What became of it is asked below.
            Some(orders) => drop(orders.send(Order::Finish(header, done))),
            None => drop(done),
        }
        is_done.recv().map_err(|_| self.failure())
    }

    /// What has ended the thread.
    fn failure(&mut self) -> io::Error {
        self.orders = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => error,
            _ => io::Error::other("its thread has ended"),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // An error was told by `finish`, a panic was printed.
            let _ = thread.join().is_ok();
        }
    }
}

fn serve(mut file: File, inbox: &Receiver<Order>, give_back: &Sender<Vec<u8>>) -> io::Result<()> {
    while let Ok(order) = inbox.recv() {
        crate::machine::processor_share::pay();
        match order {
            Order::Append(mut buffer) => {
                file.write_all(&buffer)?;
                buffer.clear();
                // A recorder that is gone needs none.
                let _ = give_back.send(buffer).is_ok();
            }
            Order::Finish(header, done) => {
                let end = file.stream_position()?;
                file.seek(SeekFrom::Start(0))?;
                file.write_all(&header)?;
                file.seek(SeekFrom::Start(end.max(header.len() as u64)))?;
                file.flush()?;
                // As above.
                let _ = done.send(()).is_ok();
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_all_buffers_hold_comes_in_order() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (mut writer, mut buffer) = Writer::start(file.reopen().unwrap()).unwrap();
        for number in 0..3 * BUFFERS {
            buffer.resize(BUFFER_BYTES, u8::try_from(number).unwrap());
            buffer = writer.swap(buffer).unwrap();
            assert!(buffer.is_empty() && buffer.capacity() >= BUFFER_BYTES);
        }
        writer.finish(vec![0xFF; 4]).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        assert_eq!(bytes.len(), 3 * BUFFERS * BUFFER_BYTES);
        assert_eq!(bytes[..5], [0xFF, 0xFF, 0xFF, 0xFF, 0]);
        let firsts = bytes.chunks(BUFFER_BYTES).skip(1).map(|chunk| chunk[0]);
        assert!(firsts.eq(1..48));
        // It goes on after that.
        buffer.push(7);
        drop(writer.swap(buffer).unwrap());
        writer.finish(vec![1]).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap().last(), Some(&7));
    }

    #[test]
    fn a_full_disk_is_told() {
        let file = File::options().write(true).open("/dev/full").unwrap();
        let (mut writer, mut buffer) = Writer::start(file).unwrap();
        buffer.push(1);
        // The thread may not have tried yet.
        let told = writer.swap(buffer).and_then(|_| writer.finish(Vec::new()));
        assert_eq!(told.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(writer.finish(Vec::new()).is_err());
    }

    /// A file that takes nothing for a while: a pipe without a reader at the other end.
    #[test]
    fn when_no_buffer_is_empty_the_recorder_waits() {
        let (mut reader, pipe) = io::pipe().unwrap();
        let (mut writer, mut buffer) =
            Writer::start(File::from(std::os::fd::OwnedFd::from(pipe))).unwrap();
        let total = 2 * BUFFERS * BUFFER_BYTES;
        let recorder = std::thread::spawn(move || {
            for _ in 0..2 * BUFFERS {
                buffer.resize(BUFFER_BYTES, 1);
                buffer = writer.swap(buffer).unwrap();
            }
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!recorder.is_finished(), "somebody has buffers without end");
        let mut read = 0;
        let mut bytes = vec![0; 1 << 20];
        while read < total {
            read += io::Read::read(&mut reader, &mut bytes).unwrap();
        }
        recorder.join().unwrap();
    }
}
