// Package broker is one Firn broker: its root wires metastore, partitions,
// tiering, groups, the API and the listeners together, and holds no logic of
// theirs. Open builds everything, Serve answers clients, Close stops in the
// order that loses nothing.
package broker

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/firnlog/firn/objectstore"
)

// Config is a broker's settings as plain values; package config reads them
// from flags, environment and file.
type Config struct {
	NodeID           int32         // this broker's id, ≥ 0
	DataDir          string        // everything on local disk is below it
	Kafka            string        // HOST:PORT that Kafka clients connect to; port 0 takes a free one
	Advertise        string        // HOST:PORT that Metadata names; "" is Kafka's
	HTTP             string        // HOST:PORT of health, metrics and admin; port 0 takes a free one
	Rack             string        // "" for none
	AutoCreateTopics bool          // auto.create.topics.enable
	NumPartitions    int32         // num.partitions: of topics made without a count
	OffsetsParts     int32         // offsets.topic.num.partitions
	CacheBytes       int64         // local disk for chunks of cold objects
	MaxConnections   int           // open Kafka connections in all
	MaxFrameBytes    int           // of one request
	MaxInflightBytes int64         // of requests being handled, over all connections
	RetentionCheck   time.Duration // how often retention and rolling by time are looked at
	UploadCheck      time.Duration // how often sealed segments are looked for
	RebalanceDelay   time.Duration // group.initial.rebalance.delay.ms
	Version          string        // of the binary
}

// Deps are what a broker uses and does not make.
type Deps struct {
	Log      *slog.Logger
	Store    objectstore.Store // closed by the broker
	StoreURL string            // for people to read, without credentials
}

// Broker is a running broker.
type Broker struct{}

// Open makes everything ready to serve; nothing listens yet.
func Open(ctx context.Context, cfg Config, deps Deps) (*Broker, error) {
	return nil, errors.New("broker: being built")
}

// Serve answers clients until ctx ends or a listener or disk fails.
func (b *Broker) Serve(ctx context.Context) error { return nil }

// Close stops the broker in order: listeners, groups, partitions synced,
// leases revoked, etcd.
func (b *Broker) Close(ctx context.Context) error { return nil }
