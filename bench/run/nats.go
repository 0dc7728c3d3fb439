package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/firnlog/firn/bench/blast"
	"github.com/firnlog/firn/bench/jetstream"
	"github.com/firnlog/firn/objectstore/storetest/servers"
)

// natsServer is NATS with JetStream on disk, one node.
type natsServer struct {
	bin, client string
	synced      bool
}

func newNATS(addr string, synced bool) (*natsServer, error) {
	bin, err := servers.Binary("nats-server")
	return &natsServer{bin, addr, synced}, err
}

func (n *natsServer) addr() string { return n.client }

func (n *natsServer) others() []server { return nil }

func (n *natsServer) profile() string { return "" }

func (n *natsServer) ping(ctx context.Context) error { return jetstream.Ping(ctx, n.client) }

func (n *natsServer) create(ctx context.Context, t blast.Topic, _ map[string]string) error {
	return jetstream.Create(ctx, t)
}

func (n *natsServer) produce(ctx context.Context, job blast.Produce) (*blast.Result, error) {
	return jetstream.Produce(ctx, job)
}

// config has JetStream's defaults but for the room, which is otherwise a part
// of what the disk has free, and the size of a message.
func (n *natsServer) config(dir string) string {
	sync := ""
	if n.synced {
		sync = ", sync_interval: always"
	}
	return fmt.Sprintf("listen: %q\nmax_payload: 8MB\njetstream: {store_dir: %q, max_file_store: 100GB%s}\n", n.client, dir, sync)
}

func (n *natsServer) command(dir string) ([]string, error) {
	conf := filepath.Join(dir, "nats.conf")
	return []string{n.bin, "-c", conf}, os.WriteFile(conf, []byte(n.config(filepath.Join(dir, "data"))), 0o644)
}

func (n *natsServer) facts() []Fact {
	name := "NATS"
	if n.synced {
		name = "NATS, synced"
	}
	return []Fact{{name, output(n.bin, "--version")}, {name + ": its nats.conf", n.config("DIR")}}
}
