// A workload built with go-spiffe. It calls the Workload API at the address that it is given and says what it got,
// one JSON object a line.
//
//	workload fetch ADDRESS AUDIENCE     SVIDs, bundles and a token, each by one call
//	workload watch ADDRESS COUNT        that many updates of the X.509 context, as they come
//	workload serve ADDRESS ID           greet one client over mTLS, of that ID; says where it listens
//	workload dial ADDRESS ID HOST:PORT  be greeted by a server of that ID
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const patience = 30 * time.Second

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := run(ctx, os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, command, address string, arguments []string) error {
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(address))
	if err != nil {
		return err
	}
	defer client.Close()
	switch command {
	case "fetch":
		return fetch(ctx, client, arguments[0])
	case "watch":
		return watch(ctx, client, arguments[0])
	case "serve":
		return serve(ctx, client, arguments[0])
	case "dial":
		return dial(ctx, client, arguments[0], arguments[1])
	}
	return fmt.Errorf("no command %q", command)
}

func fetch(ctx context.Context, client *workloadapi.Client, audience string) error {
	x509, err := client.FetchX509Context(ctx)
	if err != nil {
		return err
	}
	if err := sayX509(x509); err != nil {
		return err
	}
	bundles, err := client.FetchX509Bundles(ctx)
	if err != nil {
		return err
	}
	keys, err := client.FetchJWTBundles(ctx)
	if err != nil {
		return err
	}
	token, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return err
	}
	if _, err := client.ValidateJWTSVID(ctx, token.Marshal(), audience); err != nil {
		return err
	}
	if _, err := jwtsvid.ParseAndValidate(token.Marshal(), keys, []string{audience}); err != nil {
		return err
	}
	if _, err := client.ValidateJWTSVID(ctx, token.Marshal(), "another "+audience); err == nil {
		return errors.New("a token for another audience was accepted")
	}
	return say(map[string]any{"x509_bundles": bundles.Len(), "jwt_bundles": keys.Len(), "jwt": token.ID, "hint": token.Hint})
}

type watcher struct {
	updates chan *workloadapi.X509Context
	errors  chan error
}

func (w watcher) OnX509ContextUpdate(update *workloadapi.X509Context) { w.updates <- update }
func (w watcher) OnX509ContextWatchError(err error)                   { w.errors <- err }

func watch(ctx context.Context, client *workloadapi.Client, count string) error {
	wanted, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := watcher{make(chan *workloadapi.X509Context, wanted), make(chan error, 1)}
	go func() { _ = client.WatchX509Context(ctx, w) }()
	for range wanted {
		select {
		case update := <-w.updates:
			if err := sayX509(update); err != nil {
				return err
			}
		case err := <-w.errors:
			return err
		}
	}
	return nil
}

func serve(ctx context.Context, client *workloadapi.Client, peer string) error {
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClient(client))
	if err != nil {
		return err
	}
	defer source.Close()
	only := tlsconfig.AuthorizeID(spiffeid.RequireFromString(peer))
	listener, err := tls.Listen("tcp", "127.0.0.1:0", tlsconfig.MTLSServerConfig(source, source, only))
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := say(map[string]any{"listens": listener.Addr().String()}); err != nil {
		return err
	}
	connection, err := listener.Accept()
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := connection.(*tls.Conn).HandshakeContext(ctx); err != nil {
		return err
	}
	caller, err := peerOf(connection)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(connection, "hello %s", caller)
	return err
}

func dial(ctx context.Context, client *workloadapi.Client, peer, address string) error {
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClient(client))
	if err != nil {
		return err
	}
	defer source.Close()
	only := tlsconfig.AuthorizeID(spiffeid.RequireFromString(peer))
	dialler := tls.Dialer{Config: tlsconfig.MTLSClientConfig(source, source, only)}
	connection, err := dialler.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	greeting, err := io.ReadAll(connection)
	if err != nil {
		return err
	}
	server, err := peerOf(connection)
	if err != nil {
		return err
	}
	return say(map[string]any{"server": server, "greeting": string(greeting)})
}

// peerOf is the ID that the other end of a TLS connection has proved to have.
func peerOf(connection net.Conn) (spiffeid.ID, error) {
	return x509svid.IDFromCert(connection.(*tls.Conn).ConnectionState().PeerCertificates[0])
}

func sayX509(update *workloadapi.X509Context) error {
	svids := []map[string]any{}
	for _, svid := range update.SVIDs {
		svids = append(svids, map[string]any{
			"id": svid.ID, "hint": svid.Hint, "chain": len(svid.Certificates), "serial": svid.Certificates[0].SerialNumber.String(),
		})
	}
	return say(map[string]any{"svids": svids, "bundles": update.Bundles.Len()})
}

func say(what any) error { return json.NewEncoder(os.Stdout).Encode(what) }
