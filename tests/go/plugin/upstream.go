package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"time"

	upstreamv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/upstreamauthority/v1"
	"github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// upstream signs with a root of its own. On the same stream it tells of a second root a moment later.
type upstream struct {
	upstreamv1.UnimplementedUpstreamAuthorityServer
	configured

	key         *ecdsa.PrivateKey
	root, other *x509.Certificate
}

func newUpstream() *upstream {
	key, root := newRoot("first root")
	_, other := newRoot("second root")
	return &upstream{key: key, root: root, other: other}
}

func newRoot(name string) (*ecdsa.PrivateKey, *x509.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := template(name, time.Hour*24)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return key, root
}

func template(name string, ttl time.Duration) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(ttl),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func (p *upstream) MintX509CAAndSubscribe(req *upstreamv1.MintX509CARequest, stream upstreamv1.UpstreamAuthority_MintX509CAAndSubscribeServer) error {
	word, _ := p.said()
	if word == "refuse" {
		return status.Error(codes.PermissionDenied, "this server gets nothing")
	}
	csr, err := x509.ParseCertificateRequest(req.Csr)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "malformed CSR: %v", err)
	}
	template := template("", time.Duration(req.PreferredTtl)*time.Second)
	template.Subject, template.URIs = csr.Subject, csr.URIs
	der, err := x509.CreateCertificate(rand.Reader, template, p.root, csr.PublicKey, p.key)
	if err != nil {
		return err
	}
	err = stream.Send(&upstreamv1.MintX509CAResponse{
		X509CaChain:       []*types.X509Certificate{{Asn1: der}},
		UpstreamX509Roots: []*types.X509Certificate{{Asn1: p.root.Raw}},
	})
	if err != nil {
		return err
	}
	select {
	case <-stream.Context().Done():
		return nil
	case <-time.After(500 * time.Millisecond):
	}
	err = stream.Send(&upstreamv1.MintX509CAResponse{
		UpstreamX509Roots: []*types.X509Certificate{{Asn1: p.root.Raw}, {Asn1: p.other.Raw}},
	})
	if err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}
