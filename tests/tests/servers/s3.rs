//! S3 services: s3s-fs and moto.

use bytes::Bytes;
use serde_json::json;
use taipan_mirrors::{Class, Location};
use taipan_tests::Moto;

use crate::{
    bucket::{self, BUCKET, Bucket, anonymous},
    contract::{Conditions, Place, refuses, serves, validates},
    fixtures,
    who::{ACCESS_KEY, SECRET_KEY, USER, WRONG},
};

#[tokio::test(flavor = "multi_thread")]
async fn s3s_serves_everybody() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(BUCKET);
    for file in fixtures::all() {
        fixtures::write(&dir, &file);
    }
    let server = Bucket::serve(root.path(), None).await;
    let place = Place::new(anonymous(server.location()));
    serves(&place).await;
    // It gives out tags and takes no notice of conditions.
    validates(&place, Conditions::Ignored, async |file| {
        fixtures::write(&dir, file);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3s_serves_who_has_the_keys() {
    let root = tempfile::tempdir().unwrap();
    for file in fixtures::all() {
        fixtures::write(&root.path().join(BUCKET), &file);
    }
    let server = Bucket::serve(root.path(), Some((ACCESS_KEY, SECRET_KEY))).await;
    let location = || Location::S3(server.location());
    serves(&Place::with_keys(location(), ACCESS_KEY, SECRET_KEY)).await;
    let wrong = Place::with_keys(location(), ACCESS_KEY, WRONG);
    refuses(&wrong, Class::Denied, &[WRONG, SECRET_KEY]).await;
    // To a stranger S3 answers 403, which is also what it says of a file that is not there.
    let nobody = Place::new(anonymous(server.location()));
    refuses(&nobody, Class::NotHere, &[SECRET_KEY]).await;
}

/// Moto with a bucket of our files.
struct Cloud {
    moto: Moto,
    client: reqwest::Client,
}

impl Cloud {
    async fn start(access: &str) -> Option<Self> {
        let cloud = Self {
            moto: Moto::start()?,
            client: reqwest::Client::new(),
        };
        cloud.put("", Bytes::new(), "private").await;
        for file in fixtures::all() {
            cloud.file(&file, access).await;
        }
        Some(cloud)
    }

    async fn put(&self, key: &str, bytes: Bytes, access: &str) {
        let url = format!("{}/{BUCKET}/{key}", self.moto.endpoint());
        let request = self.client.put(url).body(bytes);
        let request = request.header("content-type", "application/octet-stream");
        let answer = request.header("x-amz-acl", access).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    async fn file(&self, file: &fixtures::File, access: &str) {
        let key = file.target().path;
        self.put(&key, file.bytes.clone(), access).await;
    }

    /// Something that has no answer of interest.
    async fn tell(&self, path: &str, authorization: &str, kind: &str, body: &str) -> String {
        let request = self
            .client
            .post(format!("{}{path}", self.moto.endpoint()))
            .header("authorization", authorization)
            .header("content-type", kind)
            .body(body.to_owned());
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        answer.text().await.unwrap()
    }

    /// Makes a user who may read the bucket and nothing else, and from now on checks who asks.
    /// Gives the user's keys.
    async fn close(&self) -> (String, String) {
        // Which service is meant stands in the scope of the signature; nobody checks that yet.
        let signature = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_request, \
                         SignedHeaders=host, Signature=0";
        let policy = json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:ListBucket"],
                "Resource": "*",
            }],
        })
        .to_string();
        let calls: [&[(&str, &str)]; 3] = [
            &[("Action", "CreateUser")],
            &[
                ("Action", "PutUserPolicy"),
                ("PolicyName", "read"),
                ("PolicyDocument", &policy),
            ],
            &[("Action", "CreateAccessKey")],
        ];
        let mut answer = String::new();
        for call in calls {
            let mut form: reqwest::Url = "http://form".parse().unwrap();
            form.query_pairs_mut()
                .extend_pairs(call)
                .append_pair("UserName", USER)
                .append_pair("Version", "2010-05-08");
            let form = form.query().unwrap();
            let kind = "application/x-www-form-urlencoded";
            answer = self.tell("/", signature, kind, form).await;
        }
        let value = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>")).unwrap();
            rest.split_once('<').unwrap().0.to_owned()
        };
        let keys = (value("AccessKeyId"), value("SecretAccessKey"));
        // Of the requests to come none goes unchecked.
        self.tell("/moto-api/reset-auth", signature, "text/plain", "0")
            .await;
        keys
    }

    fn location(&self) -> Location {
        Location::S3(bucket::location(&self.moto.endpoint()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_serves_everybody_what_is_public() {
    let Some(cloud) = Cloud::start("public-read").await else {
        return;
    };
    let location = bucket::location(&cloud.moto.endpoint());
    let place = Place::new(anonymous(location));
    serves(&place).await;
    validates(&place, Conditions::Kept, async |file| {
        cloud.file(file, "public-read").await;
    })
    .await;
    for file in [fixtures::large(), fixtures::note()] {
        cloud.file(&file, "private").await;
    }
    refuses(&place, Class::NotHere, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_serves_who_has_the_keys() {
    let Some(cloud) = Cloud::start("private").await else {
        return;
    };
    let (access, secret) = cloud.close().await;
    serves(&Place::with_keys(cloud.location(), &access, &secret)).await;
    for (access, wrong) in [(access.as_str(), WRONG), (ACCESS_KEY, SECRET_KEY)] {
        let place = Place::with_keys(cloud.location(), access, wrong);
        refuses(&place, Class::Denied, &[wrong, &secret]).await;
    }
}
