package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/firnlog/firn/bench/blast"
)

// brokers of a cluster that is measured.
const brokers = 3

// clusterPing asks each broker of a cluster until all know of all.
func clusterPing(ctx context.Context, addrs []string) error {
	for _, addr := range addrs {
		if err := blast.Ping(ctx, addr, len(addrs)); err != nil {
			return err
		}
	}
	return nil
}

// butFirst gives the nodes beside the one that stands for all.
func butFirst[N server](nodes []N) (others []server) {
	for _, n := range nodes[1:] {
		others = append(others, n)
	}
	return others
}

// firnNode is a broker of three.
type firnNode struct {
	firnServer
	id      int
	cluster *firnCluster
}

// firnCluster is three brokers with an object store in a folder, which is
// theirs as long as they run. Its first node stands for it.
type firnCluster struct {
	nodes        []*firnNode
	peers, kafka []string
	clients      []string
}

func newFirnCluster(bin string) (*firnNode, error) {
	c := &firnCluster{}
	for id := 1; id <= brokers; id++ {
		var addrs [4]string
		for i := range addrs {
			var err error
			if addrs[i], err = freeAddr(); err != nil {
				return nil, err
			}
		}
		c.kafka, c.peers, c.clients = append(c.kafka, addrs[0]), append(c.peers, addrs[2]), append(c.clients, addrs[3])
		c.nodes = append(c.nodes, &firnNode{firnServer{kafkaAPI: kafkaAPI(addrs[0]), bin: bin, http: addrs[1]}, id, c})
	}
	return c.nodes[0], nil
}

func (n *firnNode) ping(ctx context.Context) error { return clusterPing(ctx, n.cluster.kafka) }

func (n *firnNode) others() []server { return butFirst(n.cluster.nodes) }

func (n *firnNode) command(dir string) ([]string, error) {
	args, err := n.firnServer.command(dir)
	store := filepath.Join(filepath.Dir(dir), "store") // the folders of a cluster stand side by side
	return append(args, "--node-id", strconv.Itoa(n.id), "--store", "file://"+store, "--peer", n.cluster.peers[n.id-1],
		"--peer-client", n.cluster.clients[n.id-1], "--seeds", strings.Join(n.cluster.peers, ",")), err
}

func (n *firnNode) facts() []Fact {
	return []Fact{{"Firn's command, of three", "firn start --data DIR --kafka ADDR --http ADDR --log-level warn --node-id N --store file://DIR --peer ADDR --peer-client ADDR --seeds ADDR,ADDR,ADDR"}}
}

// kafkaNode is a broker of three, and a controller of three.
type kafkaNode struct {
	kafkaServer
	id      int
	cluster *kafkaCluster
}

type kafkaCluster struct {
	nodes              []*kafkaNode
	kafka, controllers []string
}

func newKafkaCluster(ctx context.Context, work string) (*kafkaNode, error) {
	c := &kafkaCluster{}
	for id := 1; id <= brokers; id++ {
		addr, err := freeAddr()
		if err != nil {
			return nil, err
		}
		k, err := newKafka(ctx, work, addr)
		if err != nil {
			return nil, err
		}
		c.kafka, c.controllers = append(c.kafka, addr), append(c.controllers, k.controller)
		c.nodes = append(c.nodes, &kafkaNode{*k, id, c})
	}
	return c.nodes[0], nil
}

func (n *kafkaNode) ping(ctx context.Context) error { return clusterPing(ctx, n.cluster.kafka) }

func (n *kafkaNode) others() []server { return butFirst(n.cluster.nodes) }

// properties are those of a single node but for the quorum, whose voters are
// static, and for its own topics, which have three replicas by default.
func (n *kafkaNode) properties(dir string) []string {
	voters := make([]string, len(n.cluster.controllers))
	for i, addr := range n.cluster.controllers {
		voters[i] = fmt.Sprintf("%d@%s", i+1, addr)
	}
	single := slices.DeleteFunc(n.kafkaServer.properties(dir), func(p string) bool {
		name, _, _ := strings.Cut(p, "=")
		return name == "node.id" || name == "controller.quorum.bootstrap.servers" || strings.HasSuffix(name, ".replication.factor") || strings.HasSuffix(name, ".min.isr")
	})
	return append(single, "node.id="+strconv.Itoa(n.id), "controller.quorum.voters="+strings.Join(voters, ","))
}

func (n *kafkaNode) command(dir string) ([]string, error) {
	conf := filepath.Join(dir, "server.properties")
	run := append(slices.Clone(n.java), "kafka.Kafka", conf)
	if _, err := os.Stat(conf); err == nil {
		return run, nil
	}
	if err := os.WriteFile(conf, []byte(strings.Join(n.properties(filepath.Join(dir, "data")), "\n")), 0o644); err != nil {
		return nil, err
	}
	return run, n.format(conf)
}

func (n *kafkaNode) facts() []Fact {
	return []Fact{{"Kafka's server.properties, of three", strings.Join(n.properties("DIR"), " ")}}
}
