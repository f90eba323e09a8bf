package kintone

import (
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// CertificateUntil returns until when the client certificate in a PKCS #12 file is valid. An expired one is not an
// error: the site decides.
func CertificateUntil(pfx, password Secret) (time.Time, error) {
	c, err := readCertificate(pfx, password)
	if err != nil {
		return time.Time{}, err
	}
	return c.Leaf.NotAfter, nil
}

// readCertificate takes a client certificate out of a PKCS #12 file, whether it is encrypted as of old (RC2, 3DES) or
// as newer tools do it (PBES2 with AES and SHA-256).
func readCertificate(pfx, password Secret) (*tls.Certificate, error) {
	key, leaf, chain, err := pkcs12.DecodeChain([]byte(pfx.Reveal()), password.Reveal())
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword) && password == "":
		return nil, errors.New("client certificate: the file wants a password")
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		return nil, errors.New("client certificate: the password does not open the file")
	case err != nil:
		return nil, fmt.Errorf("client certificate: not a PKCS #12 (.pfx) file with a certificate and its key: %w", err)
	}
	if _, ok := key.(crypto.Signer); !ok {
		return nil, errors.New("client certificate: its key cannot sign")
	}
	c := &tls.Certificate{PrivateKey: key, Leaf: leaf, Certificate: [][]byte{leaf.Raw}}
	for _, above := range chain {
		c.Certificate = append(c.Certificate, above.Raw)
	}
	return c, nil
}
