package main

import (
	"context"
	"fmt"

	"github.com/spiffe/spire-plugin-sdk/pluginsdk"
	metricsv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/hostservice/common/metrics/v1"
	agentstorev1 "github.com/spiffe/spire-plugin-sdk/proto/spire/hostservice/server/agentstore/v1"
	identityproviderv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/hostservice/server/identityprovider/v1"
	agentattestorv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/agent/nodeattestor/v1"
	workloadattestorv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/agent/workloadattestor/v1"
	serverattestorv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/nodeattestor/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// serverAttestor attests whoever says its word twice: in the payload, and in the answer to a challenge. It asks the
// host for everything that a host has to offer, and says what it was told in selectors.
type serverAttestor struct {
	serverattestorv1.UnimplementedNodeAttestorServer
	configured

	agents   agentstorev1.AgentStoreServiceClient
	identity identityproviderv1.IdentityProviderServiceClient
	metrics  metricsv1.MetricsServiceClient
}

func (p *serverAttestor) BrokerHostServices(broker pluginsdk.ServiceBroker) error {
	for name, client := range map[string]pluginsdk.ServiceClient{
		"AgentStore": &p.agents, "IdentityProvider": &p.identity, "Metrics": &p.metrics,
	} {
		if !broker.BrokerClient(client) {
			return status.Errorf(codes.FailedPrecondition, "host service %s is not there", name)
		}
	}
	return nil
}

func (p *serverAttestor) Attest(stream serverattestorv1.NodeAttestor_AttestServer) error {
	ctx := stream.Context()
	word, trustDomain := p.said()
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	if got := string(req.GetPayload()); got != word {
		return status.Errorf(codes.PermissionDenied, "%q is not the word", got)
	}
	challenge := &serverattestorv1.AttestResponse{
		Response: &serverattestorv1.AttestResponse_Challenge{Challenge: []byte("again, please")},
	}
	if err := stream.Send(challenge); err != nil {
		return err
	}
	if req, err = stream.Recv(); err != nil {
		return err
	}
	if got := string(req.GetChallengeResponse()); got != "again: "+word {
		return status.Errorf(codes.PermissionDenied, "%q is not the answer", got)
	}
	agentID := fmt.Sprintf("spiffe://%s/spire/agent/words/%s", trustDomain, word)
	known := "new"
	switch _, err := p.agents.GetAgentInfo(ctx, &agentstorev1.GetAgentInfoRequest{AgentId: agentID}); status.Code(err) {
	case codes.OK:
		known = "known"
	case codes.NotFound:
	default:
		return err
	}
	own, err := p.identity.FetchX509Identity(ctx, &identityproviderv1.FetchX509IdentityRequest{})
	if err != nil {
		return err
	}
	_, err = p.metrics.IncrCounter(ctx, &metricsv1.IncrCounterRequest{
		Key: []string{"words", "attested"}, Val: 1, Labels: []*metricsv1.Label{{Name: "known", Value: known}},
	})
	if err != nil {
		return err
	}
	address := ""
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		if found := md.Get("X-Forwarded-Client-IP"); len(found) == 1 {
			address = found[0]
		}
	}
	return stream.Send(&serverattestorv1.AttestResponse{
		Response: &serverattestorv1.AttestResponse_AgentAttributes{
			AgentAttributes: &serverattestorv1.AgentAttributes{
				SpiffeId:    agentID,
				CanReattest: true,
				SelectorValues: []string{
					"agent:" + known,
					"address:" + address,
					fmt.Sprintf("identity:%d:%d", len(own.Identity.CertChain), len(own.Bundle.X509Authorities)),
				},
			},
		},
	})
}

// agentAttestor says its word, and says it again.
type agentAttestor struct {
	agentattestorv1.UnimplementedNodeAttestorServer
	configured
}

func (p *agentAttestor) AidAttestation(stream agentattestorv1.NodeAttestor_AidAttestationServer) error {
	word, _ := p.said()
	err := stream.Send(&agentattestorv1.PayloadOrChallengeResponse{
		Data: &agentattestorv1.PayloadOrChallengeResponse_Payload{Payload: []byte(word)},
	})
	if err != nil {
		return err
	}
	if _, err := stream.Recv(); err != nil {
		return err
	}
	return stream.Send(&agentattestorv1.PayloadOrChallengeResponse{
		Data: &agentattestorv1.PayloadOrChallengeResponse_ChallengeResponse{ChallengeResponse: []byte("again: " + word)},
	})
}

// workloadAttestor says of a process that it has one, and counts how often it was asked. With the word "reference" it
// is one of the newer kind, which knows processes by reference only.
type workloadAttestor struct {
	workloadattestorv1.UnimplementedWorkloadAttestorServer
	configured

	metrics metricsv1.MetricsServiceClient
}

func (p *workloadAttestor) BrokerHostServices(broker pluginsdk.ServiceBroker) error {
	if !broker.BrokerClient(&p.metrics) {
		return status.Error(codes.FailedPrecondition, "host service Metrics is not there")
	}
	return nil
}

func (p *workloadAttestor) Attest(ctx context.Context, req *workloadattestorv1.AttestRequest) (*workloadattestorv1.AttestResponse, error) {
	word, _ := p.said()
	if word == "reference" {
		return nil, status.Error(codes.Unimplemented, "ask by reference")
	}
	if _, err := p.metrics.IncrCounter(ctx, &metricsv1.IncrCounterRequest{Key: []string{"words", "asked"}, Val: 1}); err != nil {
		return nil, err
	}
	return &workloadattestorv1.AttestResponse{SelectorValues: []string{"word:" + word, fmt.Sprintf("pid:%d", req.Pid)}}, nil
}

func (p *workloadAttestor) AttestReference(_ context.Context, req *workloadattestorv1.AttestReferenceRequest) (*workloadattestorv1.AttestReferenceResponse, error) {
	word, _ := p.said()
	return &workloadattestorv1.AttestReferenceResponse{
		SelectorValues: []string{"word:" + word, "type:" + req.Reference.TypeUrl},
	}, nil
}
