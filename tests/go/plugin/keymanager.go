package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	keymanagerv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/keymanager/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// keyManager keeps its keys in the folder that its word names, or in memory if it has none.
type keyManager struct {
	keymanagerv1.UnimplementedKeyManagerServer
	configured

	keys map[string]*key
}

type key struct {
	signer crypto.Signer
	public *keymanagerv1.PublicKey
}

func (p *keyManager) GenerateKey(_ context.Context, req *keymanagerv1.GenerateKeyRequest) (*keymanagerv1.GenerateKeyResponse, error) {
	var signer crypto.Signer
	var err error
	switch req.KeyType {
	case keymanagerv1.KeyType_EC_P256:
		signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case keymanagerv1.KeyType_EC_P384:
		signer, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case keymanagerv1.KeyType_RSA_2048:
		signer, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		return nil, status.Errorf(codes.Unimplemented, "keys of type %v are not made", req.KeyType)
	}
	if err != nil {
		return nil, err
	}
	made, err := describe(req.KeyId, req.KeyType, signer)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.word != "" {
		content, err := x509.MarshalPKCS8PrivateKey(signer)
		if err != nil {
			return nil, err
		}
		name := filepath.Join(p.word, fmt.Sprintf("%s.%d", req.KeyId, req.KeyType))
		if err := os.WriteFile(name, content, 0o600); err != nil {
			return nil, err
		}
	}
	p.keys[req.KeyId] = made
	return &keymanagerv1.GenerateKeyResponse{PublicKey: made.public}, nil
}

func (p *keyManager) GetPublicKeys(context.Context, *keymanagerv1.GetPublicKeysRequest) (*keymanagerv1.GetPublicKeysResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.load(); err != nil {
		return nil, err
	}
	found := new(keymanagerv1.GetPublicKeysResponse)
	for _, one := range p.keys {
		found.PublicKeys = append(found.PublicKeys, one.public)
	}
	return found, nil
}

func (p *keyManager) SignData(_ context.Context, req *keymanagerv1.SignDataRequest) (*keymanagerv1.SignDataResponse, error) {
	p.mu.Lock()
	one := p.keys[req.KeyId]
	p.mu.Unlock()
	if one == nil {
		return nil, status.Errorf(codes.NotFound, "there is no key %q", req.KeyId)
	}
	var opts crypto.SignerOpts = crypto.Hash(req.GetHashAlgorithm())
	if pss := req.GetPssOptions(); pss != nil {
		opts = &rsa.PSSOptions{SaltLength: int(pss.SaltLength), Hash: crypto.Hash(pss.HashAlgorithm)}
	}
	signature, err := one.signer.Sign(rand.Reader, req.Data, opts)
	if err != nil {
		return nil, err
	}
	return &keymanagerv1.SignDataResponse{Signature: signature, KeyFingerprint: one.public.Fingerprint}, nil
}

func (p *keyManager) load() error {
	names, err := filepath.Glob(filepath.Join(p.word, "*.[0-9]"))
	if p.word == "" || err != nil {
		return err
	}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		private, err := x509.ParsePKCS8PrivateKey(content)
		if err != nil {
			return err
		}
		base := filepath.Base(name)
		id, kind := base[:len(base)-2], keymanagerv1.KeyType(base[len(base)-1]-'0')
		if p.keys[id] == nil {
			if p.keys[id], err = describe(id, kind, private.(crypto.Signer)); err != nil {
				return err
			}
		}
	}
	return nil
}

func describe(id string, kind keymanagerv1.KeyType, signer crypto.Signer) (*key, error) {
	pkix, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(pkix)
	// How a plugin calls its keys is its own affair.
	public := &keymanagerv1.PublicKey{Id: id, Type: kind, PkixData: pkix, Fingerprint: "key " + hex.EncodeToString(sum[:4])}
	return &key{signer: signer, public: public}, nil
}
