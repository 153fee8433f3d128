use super::*;
use rcgen::string::BmpString;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, DnValue, KeyIdMethod,
    KeyPair, SanType, SerialNumber, date_time_ymd,
};
use std::time::Duration;

fn made(params: CertificateParams) -> Fields {
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    read(certificate.der()).unwrap()
}

fn named(parts: Vec<(DnType, DnValue)>) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, value) in parts {
        params.distinguished_name.push(kind, value);
    }
    made(params).subject
}

#[test]
fn fields_are_read() {
    let mut params = CertificateParams::new(["Example.com".to_owned(), "10.0.0.1".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://example.com/chat".try_into().unwrap()));
    params.subject_alt_names.push(SanType::Rfc822Name("a@example.com".try_into().unwrap()));
    params.subject_alt_names.push(SanType::IpAddress("2001:db8::1".parse().unwrap()));
    params.serial_number = Some(SerialNumber::from_slice(&[0x8a, 0x01]));
    params.not_before = date_time_ymd(2001, 9, 9);
    params.not_after = date_time_ymd(2060, 1, 1);
    let fields = made(params);
    assert_eq!(fields.serial, "8A01");
    assert_eq!(fields.subject, "CN=rcgen self signed cert");
    assert_eq!(fields.issuer, fields.subject);
    assert_eq!(fields.common_name.as_deref(), Some("rcgen self signed cert"));
    assert_eq!(fields.not_before, UNIX_EPOCH + Duration::from_secs(999_993_600));
    assert_eq!(fields.not_after, UNIX_EPOCH + Duration::from_secs(2_840_140_800));
    let names: Vec<_> = fields.alt_names.unwrap().iter().map(AltName::to_string).collect();
    let expected = [
        "DNS:example.com",
        "IP:10.0.0.1",
        "URI:spiffe://example.com/chat",
        "email:a@example.com",
        "IP:2001:db8::1",
    ];
    assert_eq!(names, expected);
}

#[test]
fn names_are_written_as_openssl_does() {
    // openssl x509 -noout -subject -nameopt RFC2253
    let subject = named(vec![
        (DnType::CountryName, "DE".into()),
        (DnType::OrganizationName, "Müller, Söhne & Co".into()),
        (DnType::OrganizationalUnitName, " #1 ".into()),
        (DnType::CommonName, "#a+b\"c\\d<e>;\n".into()),
    ]);
    let expected = r#"CN=#a\+b\"c\\d\<e\>\;\0A,OU=\ #1\ ,O=M\C3\BCller\, S\C3\B6hne & Co,C=DE"#
        .replacen("CN=#", r"CN=\#", 1);
    assert_eq!(subject, expected);
}

#[test]
fn other_kinds_and_strings_are_written_too() {
    let subject = named(vec![
        (DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1]), "joe".into()),
        (DnType::CustomDnType(vec![1, 2, 3, 4]), "x".into()),
        (DnType::CommonName, DnValue::BmpString(BmpString::try_from("añ").unwrap())),
    ]);
    assert_eq!(subject, r"CN=a\C3\B1,1.2.3.4=#0C0178,UID=joe");
}

#[test]
fn a_certificate_without_alternative_names_has_none() {
    assert_eq!(made(CertificateParams::default()).alt_names, None);
}

#[test]
fn a_revocation_list_tells_when_the_next_one_is_due() {
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let crl = CertificateRevocationListParams {
        this_update: date_time_ymd(2001, 1, 1),
        next_update: date_time_ymd(2001, 9, 9),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let crl = crl.signed_by(&issuer).unwrap();
    assert_eq!(next_update(crl.der()).unwrap(), Some(UNIX_EPOCH + Duration::from_secs(999_993_600)));
}

#[test]
fn rubbish_is_an_error_and_no_panic() {
    let certificate = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap();
    let der = certificate.der();
    for length in 0..der.len() {
        assert!(read(&der[..length]).is_err());
    }
    for index in 0..der.len() {
        let mut broken = der.to_vec();
        broken[index] ^= 0x55;
        let _ = read(&broken);
        let _ = next_update(&broken);
    }
}
