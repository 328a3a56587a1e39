//! The descriptors of the protocol: methods and error reasons with their options.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use protox::{
    Compiler,
    prost_reflect::{
        DescriptorPool, DynamicMessage, EnumValueDescriptor, MethodDescriptor, ReflectMessage,
        prost_types::{Duration, FileDescriptorSet, method_options::IdempotencyLevel},
    },
};

/// The package of the protocol.
const PACKAGE: &str = "consent.v1";

/// The compiled protocol.
pub struct Protocol {
    compiler: Compiler,
    pool: DescriptorPool,
}

/// A method with its options.
pub struct Method {
    /// `package.Service`.
    pub service: String,
    /// Name in the service.
    pub name: String,
    /// Whether the request is a stream.
    pub client_streaming: bool,
    /// Whether the answer is a stream.
    pub server_streaming: bool,
    /// The effect of a repeated request.
    pub idempotency: IdempotencyLevel,
    /// Name of the request message in the package.
    pub request: String,
    /// Whether the request has an idempotency key.
    pub has_key: bool,
    /// Deadline and retries.
    pub timing: Timing,
}

/// Deadline and retries of a unary call. Spans are in milliseconds.
#[derive(Clone, PartialEq, Eq)]
pub struct Timing {
    /// Maximum duration of a call with all attempts.
    pub timeout_ms: u64,
    /// Maximum number of attempts.
    pub attempts_max: u32,
    /// Backoff before the second attempt.
    pub initial_backoff_ms: u64,
    /// Maximum backoff.
    pub max_backoff_ms: u64,
}

/// An error reason with its options.
pub struct Reason {
    /// Name without the prefix of the enum.
    pub name: String,
    /// Name of the status code, without the prefix of the enum.
    pub status: String,
    /// Time after which to retry the request, in milliseconds; none if a retry does not help.
    pub retry_delay_ms: Option<u32>,
    /// Its meaning.
    pub comment: String,
}

impl Protocol {
    /// Compiles the protocol below `root`: the API.
    ///
    /// # Errors
    /// A file can not be read, or does not compile.
    pub fn compile(root: &Path) -> Result<Self, Box<dyn Error>> {
        Self::compile_folder(root, "consent/v1")
    }

    /// Compiles the messages of the ledger's own bytes below `root`.
    ///
    /// # Errors
    /// A file can not be read, or does not compile.
    pub fn compile_ledger(root: &Path) -> Result<Self, Box<dyn Error>> {
        Self::compile_folder(root, "consent/ledger/v2")
    }

    fn compile_folder(root: &Path, folder: &str) -> Result<Self, Box<dyn Error>> {
        let proto = root.join("proto");
        let mut files: Vec<PathBuf> = fs::read_dir(proto.join(folder))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        files.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
        files.sort();
        let mut compiler = Compiler::new([proto])?;
        compiler.include_source_info(true).include_imports(true).open_files(files)?;
        let pool = compiler.descriptor_pool();
        Ok(Self { compiler, pool })
    }

    /// The descriptors without custom options, for the code generators.
    pub fn descriptors(&self) -> FileDescriptorSet {
        self.compiler.file_descriptor_set()
    }

    /// All descriptors.
    pub fn pool(&self) -> &DescriptorPool {
        &self.pool
    }

    /// The descriptors with all options, encoded.
    pub fn encoded(&self) -> Vec<u8> {
        self.compiler.encode_file_descriptor_set()
    }

    /// All methods, ordered by their paths.
    ///
    /// # Errors
    /// A method's options can not be read.
    pub fn methods(&self) -> Result<Vec<Method>, Box<dyn Error>> {
        let services = self.pool.services().filter(|service| service.package_name() == PACKAGE);
        let methods: Vec<_> =
            services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect();
        let mut methods = methods
            .iter()
            .map(|method| self.method(method))
            .collect::<Result<Vec<Method>, Box<dyn Error>>>()?;
        methods.sort_by_key(Method::path);
        Ok(methods)
    }

    fn method(&self, method: &MethodDescriptor) -> Result<Method, Box<dyn Error>> {
        let options = method.options();
        let level = options.get_field_by_name("idempotency_level");
        let level = level.and_then(|level| level.as_enum_number()).unwrap_or_default();
        let pace = self.option(&options, "pace")?.as_enum_number().unwrap_or_default();
        let paces = self.pool.get_enum_by_name("consent.v1.Pace").ok_or("there is no enum Pace")?;
        let pace = paces.get_value(pace).ok_or("a pace is not one of the enum Pace")?;
        Ok(Method {
            service: method.parent_service().full_name().to_owned(),
            name: method.name().to_owned(),
            client_streaming: method.is_client_streaming(),
            server_streaming: method.is_server_streaming(),
            idempotency: IdempotencyLevel::try_from(level)?,
            request: method.input().name().to_owned(),
            has_key: method.input().get_field_by_name("idempotency_key").is_some(),
            timing: self.timing(&pace)?,
        })
    }

    fn timing(&self, pace: &EnumValueDescriptor) -> Result<Timing, Box<dyn Error>> {
        let timing = self.option(&pace.options(), "timing")?;
        let timing = timing.as_message().ok_or("a timing is a message")?;
        let attempts = timing.get_field_by_name("attempts_max");
        Ok(Timing {
            timeout_ms: duration_ms(timing, "timeout")?,
            attempts_max: attempts.and_then(|attempts| attempts.as_u32()).unwrap_or_default(),
            initial_backoff_ms: duration_ms(timing, "initial_backoff")?,
            max_backoff_ms: duration_ms(timing, "max_backoff")?,
        })
    }

    /// All error reasons but `UNSPECIFIED`, in the order of the enum.
    ///
    /// # Errors
    /// A reason has no status code, or no comment.
    pub fn reasons(&self) -> Result<Vec<Reason>, Box<dyn Error>> {
        let reasons = self.pool.get_enum_by_name("consent.v1.ErrorReason");
        let reasons: Vec<_> = reasons.ok_or("there is no enum ErrorReason")?.values().collect();
        reasons
            .iter()
            .filter(|reason| reason.number() != 0)
            .map(|reason| self.reason(reason))
            .collect()
    }

    fn reason(&self, reason: &EnumValueDescriptor) -> Result<Reason, Box<dyn Error>> {
        let options = reason.options();
        let status = self.option(&options, "status")?.as_enum_number().unwrap_or_default();
        let codes = self.pool.get_enum_by_name("consent.v1.StatusCode");
        let code =
            codes.and_then(|codes| codes.get_value(status)).filter(|code| code.number() != 0);
        let code = code.ok_or_else(|| format!("{} has no status code", reason.name()))?;
        let delay_ms = self.option(&options, "retry_delay_ms")?.as_u32();
        Ok(Reason {
            name: without_prefix(reason.name(), "ERROR_REASON_")?,
            status: without_prefix(code.name(), "STATUS_CODE_")?,
            retry_delay_ms: delay_ms.filter(|delay_ms| *delay_ms > 0),
            comment: comment(reason).ok_or_else(|| format!("{} has no comment", reason.name()))?,
        })
    }

    /// The value of an option of `options.proto`, or its default.
    fn option(
        &self,
        options: &DynamicMessage,
        name: &str,
    ) -> Result<protox::prost_reflect::Value, Box<dyn Error>> {
        let extension = self.pool.get_extension_by_name(&format!("{PACKAGE}.{name}"));
        let extension = extension.ok_or_else(|| format!("there is no option {name}"))?;
        if extension.containing_message() != options.descriptor() {
            return Err(format!("{name} is no option of {}", options.descriptor().name()).into());
        }
        Ok(options.get_extension(&extension).into_owned())
    }
}

impl Method {
    /// `/package.Service/Method`.
    pub fn path(&self) -> String {
        format!("/{}/{}", self.service, self.name)
    }

    /// Whether the request or the answer is a stream.
    pub fn is_streaming(&self) -> bool {
        self.client_streaming || self.server_streaming
    }

    /// Whether a repeated request changes nothing, with any content.
    pub fn is_idempotent(&self) -> bool {
        self.idempotency != IdempotencyLevel::IdempotencyUnknown
    }
}

fn duration_ms(message: &DynamicMessage, field: &str) -> Result<u64, Box<dyn Error>> {
    let duration = message.get_field_by_name(field);
    let duration = duration.as_ref().and_then(|duration| duration.as_message());
    let duration = duration.ok_or_else(|| format!("{field} is not given"))?;
    let Duration { seconds, nanos } = duration.transcode_to()?;
    Ok(u64::try_from(seconds)? * 1_000 + u64::try_from(nanos)? / 1_000_000)
}

fn without_prefix(name: &str, prefix: &str) -> Result<String, Box<dyn Error>> {
    let rest = name.strip_prefix(prefix).ok_or_else(|| format!("{name} lacks {prefix}"))?;
    Ok(rest.to_owned())
}

/// The comment above a value, as one line.
fn comment(value: &EnumValueDescriptor) -> Option<String> {
    let file = value.parent_enum().parent_file();
    let locations = &file.file_descriptor_proto().source_code_info.as_ref()?.location;
    let location = locations.iter().find(|location| location.path == value.path())?;
    let text = location.leading_comments.as_deref()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}
