//! Files: one folder of its own, in which granted files are. What is opened beyond it is denied
//! and on record by its name.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use hyper::body::Bytes;
use kernel::capability::{Capabilities, Capability};
use kernel::values::Digest;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::filesystem::WasiFilesystemCtxView;
use wasmtime_wasi::p2::bindings::clocks::wall_clock::Datetime;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    self, Descriptor, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry,
    DirectoryEntryStream, ErrorCode, HostDescriptor, HostDirectoryEntryStream, MetadataHashValue,
    NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, FsError, FsResult, OutputStream, Pollable, StreamError,
    StreamResult,
};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiView as _};

use crate::limits;
use crate::state::{Books, State};

/// The files of one execution.
#[derive(Debug)]
pub(crate) struct Files {
    /// What is shown as `/`; none where the code cannot ask for files.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) capabilities: Arc<Capabilities>,
    /// Where an interpreter looks for modules of its own: no denials.
    pub(crate) own: Arc<[String]>,
    /// What is in granted folders and was not copied in, with why.
    left_out: BTreeMap<String, &'static str>,
    /// Bytes of one file, at most.
    pub(crate) file_bytes: u64,
    /// Files and folders that may have been made.
    made: usize,
    /// The path of each open descriptor.
    paths: HashMap<u32, String>,
}

impl Files {
    pub(crate) fn new(
        folder: Option<PathBuf>,
        capabilities: Arc<Capabilities>,
        own: Arc<[String]>,
        file_bytes: u64,
    ) -> Self {
        let (left_out, paths) = (BTreeMap::new(), HashMap::new());
        Self { folder, capabilities, own, left_out, file_bytes, made: 0, paths }
    }

    /// The same, with what was not copied in.
    pub(crate) fn without(self, left_out: BTreeMap<String, &'static str>) -> Self {
        Self { left_out, ..self }
    }

    /// Why `path` is not there, or a folder that it is in.
    fn why_left_out(&self, path: &str) -> Option<&'static str> {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        ends.filter_map(|end| path.get(..end)).find_map(|part| self.left_out.get(part).copied())
    }

    pub(crate) fn preopen(&self, builder: &mut WasiCtxBuilder) -> wasmtime::Result<()> {
        if let Some(folder) = &self.folder {
            let writes = !self.capabilities.file_write.is_empty();
            let perms = if writes { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            builder.preopened_dir(folder, "/", perms)?;
        }
        Ok(())
    }

    /// The path that `path`, said of the folder `of`, means; none where it leads out of `/`.
    fn resolve(&self, of: &Resource<Descriptor>, path: &str) -> Option<String> {
        let base = self.paths.get(&of.rep()).map_or("/", String::as_str);
        join(base, path)
    }

    fn is_own(&self, path: &str) -> bool {
        self.own.iter().any(|own| {
            path.strip_prefix(own.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || own.ends_with('/'))
        })
    }

    /// Whether a granted path is below `path`, so that it is there as a folder.
    fn leads_to_granted(&self, path: &str) -> bool {
        let grants = self.capabilities.file_read.iter().chain(&self.capabilities.file_write);
        let folder = if path.ends_with('/') { path.to_owned() } else { format!("{path}/") };
        grants.into_iter().any(|glob| glob.starts_with(&folder))
    }

    fn may_see(&self, path: &str) -> bool {
        self.capabilities.may_read(path)
            || self.capabilities.may_write(path)
            || self.leads_to_granted(path)
    }
}

/// `path` said of the folder `base`, without `.` and `..`; none where it leads out of `/`.
pub(crate) fn join(base: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    if path.starts_with('/') {
        parts.clear();
    }
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(format!("/{}", parts.join("/")))
}

struct Staged;

struct View<'a> {
    inner: WasiFilesystemCtxView<'a>,
    files: &'a mut Files,
    books: &'a Arc<Books>,
    time: Datetime,
}

impl HasData for Staged {
    type Data<'a> = View<'a>;
}

pub(super) fn add(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    types::add_to_linker::<State, Staged>(linker, |state| {
        let since = state.clock.started_at();
        state.ctx();
        let State { wasi, table, files, books, .. } = state;
        let ctx = wasi.get_or_insert_with(|| Box::new(WasiCtx::builder().build()));
        View {
            inner: WasiFilesystemCtxView { ctx: ctx.filesystem(), table },
            files,
            books,
            time: Datetime { seconds: since.as_secs(), nanoseconds: since.subsec_nanos() },
        }
    })
}

impl View<'_> {
    fn table(&mut self) -> &mut ResourceTable {
        self.inner.table
    }

    fn deny<T>(&self, capability: Capability, path: &str) -> FsResult<T> {
        self.books.denials.add(capability, path);
        Err(ErrorCode::NotPermitted.into())
    }

    /// The path that may be written, or a denial.
    fn writable(&self, of: &Resource<Descriptor>, path: &str) -> FsResult<String> {
        match self.files.resolve(of, path) {
            Some(path) if self.files.capabilities.may_write(&path) => Ok(path),
            Some(path) => self.deny(Capability::FileWrite, &path),
            None => self.deny(Capability::FileWrite, path),
        }
    }

    /// The path that may be looked at, or a denial where it leads out.
    fn visible(&self, of: &Resource<Descriptor>, path: &str) -> FsResult<String> {
        match self.files.resolve(of, path) {
            Some(path) => Ok(path),
            None => self.deny(Capability::FileRead, path),
        }
    }

    /// Puts on record what is not there because it was not granted.
    fn missed<T>(&self, path: &str, result: FsResult<T>) -> FsResult<T> {
        if result.is_err() {
            if let Some(why) = self.files.why_left_out(path) {
                self.books.denials.add_for(Capability::FileRead, path, why);
            } else if !self.files.may_see(path) && !self.files.is_own(path) {
                self.books.denials.add(Capability::FileRead, path);
            }
        }
        result
    }

    /// The same for all runs: the file as it was staged, at the start of the clock.
    fn steady(&self, stat: DescriptorStat) -> DescriptorStat {
        DescriptorStat {
            data_access_timestamp: Some(self.time),
            data_modification_timestamp: Some(self.time),
            status_change_timestamp: Some(self.time),
            ..stat
        }
    }

    /// One more file or folder is made, or there are too many.
    fn make(&mut self) -> FsResult<()> {
        if self.files.made >= limits::FILES_MADE_MAX {
            return Err(ErrorCode::InsufficientSpace.into());
        }
        self.files.made += 1;
        Ok(())
    }

    fn metered(
        &mut self,
        stream: Resource<DynOutputStream>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let inner = self.table().delete(stream)?;
        let books = Arc::clone(self.books);
        let stream: DynOutputStream = Box::new(Metered { inner, books });
        Ok(self.table().push(stream)?)
    }
}

fn hash(path: &str) -> MetadataHashValue {
    let digest = Digest::of(path.as_bytes()).0;
    let half = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| (n << 8) | u64::from(*byte));
    let (lower, rest) = digest.split_at(8);
    MetadataHashValue { lower: half(lower), upper: half(rest.split_at(8).0) }
}

impl types::Host for View<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.inner.convert_error_code(error)
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        self.inner.filesystem_error_code(error)
    }
}

impl HostDescriptor for View<'_> {
    async fn open_at(
        &mut self,
        of: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let changes = open.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE)
            || flags.contains(DescriptorFlags::WRITE);
        let whole = if changes && !open.contains(OpenFlags::DIRECTORY) {
            self.writable(&of, &path)?
        } else {
            self.visible(&of, &path)?
        };
        if self.files.paths.len() >= limits::FILES_OPEN_MAX {
            return Err(ErrorCode::InsufficientMemory.into());
        }
        if open.contains(OpenFlags::CREATE) {
            self.make()?;
        }
        let opened = self.inner.open_at(of, path_flags, path, open, flags).await;
        let opened = self.missed(&whole, opened)?;
        self.files.paths.insert(opened.rep(), whole);
        Ok(opened)
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        self.files.paths.remove(&fd.rep());
        HostDescriptor::drop(&mut self.inner, fd)
    }

    async fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorStat> {
        let stat = self.inner.stat(fd).await?;
        Ok(self.steady(stat))
    }

    async fn stat_at(
        &mut self,
        of: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        let whole = self.visible(&of, &path)?;
        let stat = self.inner.stat_at(of, flags, path).await;
        let stat = self.missed(&whole, stat)?;
        Ok(self.steady(stat))
    }

    async fn readlink_at(&mut self, of: Resource<Descriptor>, path: String) -> FsResult<String> {
        let whole = self.visible(&of, &path)?;
        let target = self.inner.readlink_at(of, path).await;
        self.missed(&whole, target)
    }

    async fn create_directory_at(
        &mut self,
        of: Resource<Descriptor>,
        path: String,
    ) -> FsResult<()> {
        let whole = self.visible(&of, &path)?;
        let granted = self.files.capabilities.may_write(&format!("{whole}/x"))
            || self.files.leads_to_granted(&whole);
        if self.files.capabilities.file_write.is_empty() || !granted {
            return self.deny(Capability::FileWrite, &whole);
        }
        self.make()?;
        self.inner.create_directory_at(of, path).await
    }

    async fn unlink_file_at(&mut self, of: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.writable(&of, &path)?;
        self.inner.unlink_file_at(of, path).await
    }

    async fn remove_directory_at(
        &mut self,
        of: Resource<Descriptor>,
        path: String,
    ) -> FsResult<()> {
        let whole = self.visible(&of, &path)?;
        if !self.files.capabilities.may_write(&format!("{whole}/x")) {
            return self.deny(Capability::FileWrite, &whole);
        }
        self.inner.remove_directory_at(of, path).await
    }

    async fn rename_at(
        &mut self,
        of: Resource<Descriptor>,
        old: String,
        to: Resource<Descriptor>,
        new: String,
    ) -> FsResult<()> {
        self.writable(&of, &old)?;
        self.writable(&to, &new)?;
        self.inner.rename_at(of, old, to, new).await
    }

    async fn link_at(
        &mut self,
        _of: Resource<Descriptor>,
        _flags: PathFlags,
        _old: String,
        _to: Resource<Descriptor>,
        new: String,
    ) -> FsResult<()> {
        self.deny(Capability::FileWrite, &format!("{new} (a link)"))
    }

    async fn symlink_at(
        &mut self,
        _of: Resource<Descriptor>,
        target: String,
        path: String,
    ) -> FsResult<()> {
        self.deny(Capability::FileWrite, &format!("{path} (a link to {target})"))
    }

    async fn set_size(&mut self, fd: Resource<Descriptor>, size: u64) -> FsResult<()> {
        if size > self.files.file_bytes {
            return Err(ErrorCode::FileTooLarge.into());
        }
        self.inner.set_size(fd, size).await
    }

    async fn set_times(
        &mut self,
        _fd: Resource<Descriptor>,
        _accessed: NewTimestamp,
        _modified: NewTimestamp,
    ) -> FsResult<()> {
        // Times of files are the same in all runs.
        Ok(())
    }

    async fn set_times_at(
        &mut self,
        _of: Resource<Descriptor>,
        _flags: PathFlags,
        _path: String,
        _accessed: NewTimestamp,
        _modified: NewTimestamp,
    ) -> FsResult<()> {
        Ok(())
    }

    async fn read(
        &mut self,
        fd: Resource<Descriptor>,
        len: u64,
        offset: u64,
    ) -> FsResult<(Vec<u8>, bool)> {
        self.inner.read(fd, len, offset).await
    }

    async fn write(
        &mut self,
        fd: Resource<Descriptor>,
        bytes: Vec<u8>,
        offset: u64,
    ) -> FsResult<u64> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if offset.saturating_add(len) > self.files.file_bytes {
            return Err(ErrorCode::FileTooLarge.into());
        }
        if !self.books.take(bytes.len()) {
            return Err(ErrorCode::InsufficientSpace.into());
        }
        self.inner.write(fd, bytes, offset).await
    }

    fn write_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: u64,
    ) -> FsResult<Resource<DynOutputStream>> {
        if offset > self.files.file_bytes {
            return Err(ErrorCode::FileTooLarge.into());
        }
        let stream = self.inner.write_via_stream(fd, offset)?;
        self.metered(stream)
    }

    fn append_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let stream = self.inner.append_via_stream(fd)?;
        self.metered(stream)
    }

    fn read_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: u64,
    ) -> FsResult<Resource<DynInputStream>> {
        self.inner.read_via_stream(fd, offset)
    }

    async fn metadata_hash(&mut self, fd: Resource<Descriptor>) -> FsResult<MetadataHashValue> {
        let path = self.files.paths.get(&fd.rep()).map_or("/", String::as_str);
        Ok(hash(path))
    }

    async fn metadata_hash_at(
        &mut self,
        of: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        let whole = self.visible(&of, &path)?;
        let stat = self.inner.stat_at(of, flags, path).await;
        self.missed(&whole, stat)?;
        Ok(hash(&whole))
    }

    async fn is_same_object(
        &mut self,
        one: Resource<Descriptor>,
        other: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        self.inner.is_same_object(one, other).await
    }

    async fn read_directory(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<Resource<DirectoryEntryStream>> {
        self.inner.read_directory(fd).await
    }

    async fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        self.inner.get_flags(fd).await
    }

    async fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorType> {
        self.inner.get_type(fd).await
    }

    async fn advise(
        &mut self,
        fd: Resource<Descriptor>,
        offset: u64,
        len: u64,
        advice: types::Advice,
    ) -> FsResult<()> {
        self.inner.advise(fd, offset, len, advice).await
    }

    async fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.inner.sync(fd).await
    }

    async fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.inner.sync_data(fd).await
    }
}

impl HostDirectoryEntryStream for View<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        self.inner.read_directory_entry(stream).await
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        HostDirectoryEntryStream::drop(&mut self.inner, stream)
    }
}

/// A stream into a file that ends where the sandbox has written enough.
struct Metered {
    inner: DynOutputStream,
    books: Arc<Books>,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Metered {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Metered {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if !self.books.take(bytes.len()) {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(StreamError::LastOperationFailed(full.into()));
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}
