//! A key that signs tokens.

use crate::call;
use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
        RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A key of RSA (2048 bits) or of the curve P-256, and its name.
#[derive(Debug)]
pub struct SigningKey {
    id: String,
    pair: Pair,
}

#[derive(Debug)]
enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

impl SigningKey {
    /// Makes a key for RS256. It takes about a tenth of a second.
    ///
    /// # Panics
    /// The system has no random numbers.
    pub fn rsa() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key can be made");
        Self::named(Pair::Rsa(pair))
    }

    /// Makes a key for ES256.
    ///
    /// # Panics
    /// The system has no random numbers.
    pub fn ec() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Self::named(Pair::Ec(pair.expect("a key can be made")))
    }

    /// Makes a key of each kind.
    pub(super) fn pair() -> [Self; 2] {
        [Self::rsa(), Self::ec()]
    }

    fn named(pair: Pair) -> Self {
        let id = hex::encode(call::unique());
        Self { id, pair }
    }

    /// The name of the key, the `kid` of its tokens.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the key signs with: `RS256` or `ES256`.
    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(_) => "ES256",
        }
    }

    /// The header of its tokens.
    pub fn header(&self) -> Value {
        json!({"alg": self.algorithm(), "kid": self.id, "typ": "JWT"})
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&self.header(), claims)
    }

    /// A token with this header, which may lie. An RSA key signs as the header's `alg` says if that is RS256, RS384, RS512 or
    /// PS256. Otherwise a key signs as [`Self::algorithm`] says.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        self.token_of(header, &claims.to_string())
    }

    /// A token with this header and this text as its claims, signed as in [`Self::token_with`].
    ///
    /// # Panics
    /// The key cannot sign.
    pub fn token_of(&self, header: &Value, claims: &str) -> String {
        let [header_part, claims_part] =
            [&header.to_string(), claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        let message = format!("{header_part}.{claims_part}");
        let algorithm = header["alg"].as_str().unwrap_or_default();
        let signature = URL_SAFE_NO_PAD.encode(self.sign(algorithm, message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// The public key in DER: as PKCS #1 writes it for RSA, the uncompressed point for P-256.
    pub fn public_key(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Ec(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    /// The public key as a JSON Web Key.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                let [n, e] = [public.n, public.e].map(|part| URL_SAFE_NO_PAD.encode(part));
                json!({"kty": "RSA", "n": n, "e": e})
            }
            Pair::Ec(pair) => {
                // The first byte says that the point is not compressed.
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
                json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})
            }
        };
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(self.algorithm());
        jwk
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let encoding: &dyn RsaEncoding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature)
                    .expect("an RSA key signs");
                signature
            }
            Pair::Ec(pair) => {
                let signature = pair.sign(&random, message);
                signature.expect("an EC key signs").as_ref().to_vec()
            }
        }
    }
}
