//! `iothub-emulator trust`: what a developer sets so that an SDK trusts the
//! hub's development CA, as text to read, to evaluate in a shell or to compile.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

/// Where systems keep the certificates that they trust, as OpenSSL and the
/// distributions place them.
const SYSTEM_BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/opt/homebrew/etc/ca-certificates/cert.pem",
];

/// File of the bundle in the data directory.
const BUNDLE_FILE: &str = "ca-bundle.pem";

/// Says how to make SDKs trust the hub
///
/// The development CA is made when there is none yet, so this works before the
/// hub has ever been started. Without a language, all of them are explained;
/// with one, the output is exactly what to run (for C: what to compile), so that
/// `eval "$(iothub-emulator trust python)"` does it.
#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// What the client is written in
    #[arg(value_enum)]
    language: Option<Language>,
    /// Write to this file instead of to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Trust the certificates of the system as well: write them and the hub's
    /// into one file in the data directory and name that. For programs that also
    /// talk to other servers, since most of these settings replace what is
    /// trusted otherwise
    #[arg(long)]
    bundle: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    Python,
    Node,
    Java,
    Dotnet,
    Go,
    C,
    Curl,
}

/// What the texts are made of.
struct Trust<'a> {
    /// The file that clients are told to trust.
    file: &'a Path,
    /// PEM of the CA, for those who compile it in.
    pem: &'a str,
    /// Where a Java key store goes.
    directory: &'a Path,
}

/// Writes what the arguments ask for.
///
/// # Errors
/// In words: which file cannot be read or written.
pub(crate) fn run(args: &TrustArgs, data_dir: &Path) -> Result<(), String> {
    let pem = emulator::development_ca(data_dir).map_err(|e| e.to_string())?;
    let directory = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let file = if args.bundle {
        write_bundle(&directory, &pem)?
    } else {
        directory.join("ca.pem")
    };
    let trust = Trust {
        file: &file,
        pem: &pem,
        directory: &directory,
    };
    let text = match args.language {
        Some(language) => trust.for_language(language),
        None => trust.for_people(),
    };
    match &args.output {
        None => print!("{text}"),
        Some(output) => {
            std::fs::write(output, text).map_err(|e| format!("cannot write {}: {e}", output.display()))?;
        }
    }
    Ok(())
}

fn write_bundle(directory: &Path, pem: &str) -> Result<PathBuf, String> {
    let system = SYSTEM_BUNDLES
        .iter()
        .find_map(|file| std::fs::read_to_string(file).ok())
        .ok_or("the system's certificates were not found; run without --bundle")?;
    let file = directory.join(BUNDLE_FILE);
    let text = format!("{}\n{pem}", system.trim_end());
    std::fs::write(&file, text).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    Ok(file)
}

impl Trust<'_> {
    fn for_people(&self) -> String {
        let mut text = format!(
            "The hub's certificate is signed by a CA of this machine's own: {}\n\
             It is also at http://127.0.0.1:8080/_emulator/ca.pem while the hub runs.\n",
            self.file.display()
        );
        for language in Language::value_variants() {
            let name = language.name();
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{name}\n");
            let lines = match language {
                Language::C => "# iothub-emulator trust c --output iothub_ca.h, then in the program:\n\
                     IoTHubDeviceClient_LL_SetOption(client, OPTION_TRUSTED_CERT, local_iot_hub_ca);\n"
                    .to_owned(),
                _ => self.for_language(*language),
            };
            for line in lines.lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
        text.push_str(
            "\nOne language only, to run at once:  eval \"$(iothub-emulator trust python)\"\n\
             Programs that also talk to other servers want --bundle.\n",
        );
        text
    }

    fn for_language(&self, language: Language) -> String {
        let file = self.file.display().to_string();
        match language {
            Language::Python => {
                let mut text = comment(
                    "the device SDK and AMQP read SSL_CERT_FILE, the service SDK and the Azure CLI REQUESTS_CA_BUNDLE",
                );
                text += &set("SSL_CERT_FILE", &file);
                text += &set("REQUESTS_CA_BUNDLE", &file);
                text
            }
            Language::Node => {
                comment("all SDKs; adds to what Node trusts anyway") + &set("NODE_EXTRA_CA_CERTS", &file)
            }
            Language::Go => {
                comment(
                    "programs that use the system's certificate pool, on Linux; elsewhere, and for clients with a pool of their own, put the file into tls.Config.RootCAs",
                ) + &set("SSL_CERT_FILE", &file)
            }
            Language::Dotnet => {
                let mut text = comment("on Linux; elsewhere import the file into the root store once:");
                text += &comment(&format!(
                    "  Windows: certutil -user -addstore Root {}",
                    quoted(&file)
                ));
                text += &comment(&format!(
                    "  macOS: security add-trusted-cert -r trustRoot -k ~/Library/Keychains/login.keychain-db {}",
                    quoted(&file)
                ));
                text + &set("SSL_CERT_FILE", &file)
            }
            Language::Java => self.java(),
            Language::C => self.c(),
            Language::Curl => comment("curl and what is built on it") + &set("CURL_CA_BUNDLE", &file),
        }
    }

    fn java(&self) -> String {
        let store = self.directory.join("truststore.p12").display().to_string();
        let mut text = comment("a key store with the CA alone, which the JVM then uses instead of its own");
        // Made anew, so that a changed CA leaves no old one behind.
        let (remove, null) = if cfg!(windows) {
            ("Remove-Item -ErrorAction Ignore", "$null")
        } else {
            ("rm -f", "/dev/null")
        };
        let _ = writeln!(text, "{remove} {}", quoted(&store));
        let _ = writeln!(
            text,
            "keytool -importcert -noprompt -alias local-iot-hub -storetype PKCS12 -storepass changeit -file {} -keystore {} 2>{null}",
            quoted(&self.directory.join("ca.pem").display().to_string()),
            quoted(&store),
        );
        text + &set(
            "JAVA_TOOL_OPTIONS",
            &format!("-Djavax.net.ssl.trustStore=\"{store}\" -Djavax.net.ssl.trustStorePassword=changeit"),
        )
    }

    fn c(&self) -> String {
        let mut text = String::from(
            "/* The development CA of the local IoT hub. With the Azure IoT C SDK:\n   \
             IoTHubDeviceClient_LL_SetOption(client, OPTION_TRUSTED_CERT, local_iot_hub_ca); */\n\
             static const char local_iot_hub_ca[] =\n",
        );
        for line in self.pem.lines() {
            let _ = writeln!(text, "    \"{line}\\n\"");
        }
        text.truncate(text.trim_end().len());
        text.push_str(";\n");
        text
    }
}

impl Language {
    fn name(self) -> &'static str {
        match self {
            Self::Python => "Python",
            Self::Node => "Node",
            Self::Java => "Java",
            Self::Dotnet => ".NET",
            Self::Go => "Go",
            Self::C => "C",
            Self::Curl => "curl",
        }
    }
}

fn comment(text: &str) -> String {
    format!("# {text}\n")
}

/// A line that sets an environment variable, for PowerShell on Windows.
fn set(name: &str, value: &str) -> String {
    if cfg!(windows) {
        format!("$env:{name} = {}\n", quoted(value))
    } else {
        format!("export {name}={}\n", quoted(value))
    }
}

/// A text as one word of a shell.
pub(crate) fn quoted(text: &str) -> String {
    let quote_inside = if cfg!(windows) { "''" } else { r"'\''" };
    format!("'{}'", text.replace('\'', quote_inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    fn text(language: Language) -> String {
        Trust {
            file: Path::new("/data/it's/ca.pem"),
            pem: PEM,
            directory: Path::new("/data/it's"),
        }
        .for_language(language)
    }

    #[cfg(unix)]
    #[test]
    fn a_shell_reads_back_what_was_meant() {
        let script = format!(
            "{}{}{}printf '%s\\n' \"$SSL_CERT_FILE\" \"$REQUESTS_CA_BUNDLE\" \"$NODE_EXTRA_CA_CERTS\" \"$CURL_CA_BUNDLE\"",
            text(Language::Python),
            text(Language::Node),
            text(Language::Curl)
        );
        let out = std::process::Command::new("sh")
            .args(["-euc", &script])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(out.stdout).unwrap(),
            "/data/it's/ca.pem\n".repeat(4)
        );
    }

    #[test]
    fn c_gets_a_string_literal() {
        let text = text(Language::C);
        assert!(text.ends_with(
            "local_iot_hub_ca[] =\n    \"-----BEGIN CERTIFICATE-----\\n\"\n    \"AAAA\\n\"\n    \
             \"-----END CERTIFICATE-----\\n\";\n"
        ));
    }

    #[test]
    fn everybody_is_told() {
        let trust = Trust {
            file: Path::new("/ca.pem"),
            pem: PEM,
            directory: Path::new("/"),
        };
        let text = trust.for_people();
        for language in Language::value_variants() {
            assert!(text.contains(&format!("\n{}\n", language.name())), "{language:?}");
        }
    }
}
