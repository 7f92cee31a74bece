// Package backendrpc is the backend contract over a gRPC connection: Register
// serves a backend, New is one at the other end. It says nothing of how the
// connection came to be: package plugin makes one between engine and backend,
// a virtual machine has one of its own.
package backendrpc

import "google.golang.org/grpc"

// MaxMessage bounds one gRPC message in either direction, in bytes.
const MaxMessage = 16 << 20

// Window sizes in bytes: enough that an archive streams without waiting for the
// other end after each chunk. Setting them also turns off gRPC's bandwidth
// probing, which costs a ping per round trip.
const (
	streamWindow = 256 << 10
	connWindow   = 1 << 20
	bufferSize   = 16 << 10
)

// chunkSize is how much of an archive travels in one message, in bytes.
const chunkSize = 64 << 10

// ServerOptions are the bounds and the translation of errors for a server.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.ReadBufferSize(bufferSize),
		grpc.WriteBufferSize(bufferSize),
		grpc.ChainUnaryInterceptor(unaryToWire),
		grpc.ChainStreamInterceptor(streamToWire),
	}
}

// DialOptions are the same for a client.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(bufferSize),
		grpc.WithWriteBufferSize(bufferSize),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithChainUnaryInterceptor(unaryFromWire),
		grpc.WithChainStreamInterceptor(streamFromWire),
	}
}
