//! An application that gets a token by azure_identity, which offers no chain that a managed identity is part of.
//! usage: token managed SCOPE TIMES [client-id|resource-id|object-id ID]

use azure_core::credentials::TokenCredential;
use azure_identity::{ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId};
use std::process::ExitCode;

async fn run(arguments: &[String]) -> azure_core::Result<()> {
    let mut options = ManagedIdentityCredentialOptions::default();
    if let [selector, id] = &arguments[3..] {
        options.user_assigned_id = Some(match selector.as_str() {
            "client-id" => UserAssignedId::ClientId(id.clone()),
            "resource-id" => UserAssignedId::ResourceId(id.clone()),
            _ => UserAssignedId::ObjectId(id.clone()),
        });
    }
    let credential = ManagedIdentityCredential::new(Some(options))?;
    for _ in 0..arguments[2].parse().expect("TIMES is a number") {
        let token = credential.get_token(&[&arguments[1]], None).await?;
        println!("token {}", token.token.secret());
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let message = error
                .to_string()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ");
            println!("failed ErrorKind::{:?} {message}", error.kind());
            ExitCode::FAILURE
        }
    }
}
