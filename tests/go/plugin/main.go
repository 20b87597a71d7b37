// A plugin built with SPIRE's SDK, of the type that its argument names: what a host runs is what its users write.
//
//	plugin keymanager | servernodeattestor | agentnodeattestor | upstreamauthority | workloadattestor
//
// Its data are `fail = "text"` and `away = "text"`, with which Configure refuses, for good or for now, and
// `word = "text"`, which shows in what the plugin says.
package main

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl"
	"github.com/spiffe/spire-plugin-sdk/pluginmain"
	agentattestorv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/agent/nodeattestor/v1"
	workloadattestorv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/agent/workloadattestor/v1"
	keymanagerv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/keymanager/v1"
	serverattestorv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/nodeattestor/v1"
	upstreamv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/upstreamauthority/v1"
	configv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/service/common/config/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func main() {
	switch kind := os.Args[1]; kind {
	case "keymanager":
		plugin := &keyManager{keys: map[string]*key{}}
		pluginmain.Serve(keymanagerv1.KeyManagerPluginServer(plugin), configv1.ConfigServiceServer(plugin))
	case "servernodeattestor":
		plugin := &serverAttestor{}
		pluginmain.Serve(serverattestorv1.NodeAttestorPluginServer(plugin), configv1.ConfigServiceServer(plugin))
	case "agentnodeattestor":
		plugin := &agentAttestor{}
		pluginmain.Serve(agentattestorv1.NodeAttestorPluginServer(plugin), configv1.ConfigServiceServer(plugin))
	case "upstreamauthority":
		plugin := newUpstream()
		pluginmain.Serve(upstreamv1.UpstreamAuthorityPluginServer(plugin), configv1.ConfigServiceServer(plugin))
	case "workloadattestor":
		plugin := &workloadAttestor{}
		pluginmain.Serve(workloadattestorv1.WorkloadAttestorPluginServer(plugin), configv1.ConfigServiceServer(plugin))
	default:
		fmt.Fprintf(os.Stderr, "there is no plugin %q\n", kind)
		os.Exit(1)
	}
}

// configured is what every plugin here has: its data, and a logger.
type configured struct {
	configv1.UnimplementedConfigServer

	mu          sync.Mutex
	log         hclog.Logger
	word        string
	trustDomain string
}

func (c *configured) SetLogger(log hclog.Logger) {
	c.log = log
}

func (c *configured) Configure(_ context.Context, req *configv1.ConfigureRequest) (*configv1.ConfigureResponse, error) {
	var data struct {
		Fail string `hcl:"fail"`
		Away string `hcl:"away"`
		Word string `hcl:"word"`
	}
	if err := hcl.Decode(&data, req.HclConfiguration); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "malformed data: %v", err)
	}
	if data.Fail != "" {
		return nil, status.Error(codes.InvalidArgument, data.Fail)
	}
	if data.Away != "" {
		return nil, status.Error(codes.Unavailable, data.Away)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.word, c.trustDomain = data.Word, req.CoreConfiguration.TrustDomain
	c.log.Info("configured by the host", "word", c.word)
	return &configv1.ConfigureResponse{}, nil
}

func (c *configured) said() (word, trustDomain string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.word, c.trustDomain
}
