package machine

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	configPath = "/etc/firn/firn.yaml"
	sysctlPath = "/etc/sysctl.d/60-firn.conf"
	usersPath  = "/etc/sysusers.d/firn.conf"
	unitDir    = "/etc/systemd/system"

	// BinaryPath is where the binary lies that a machine's broker runs.
	BinaryPath = "/usr/local/bin/firn"
)

// sysctls are the kernel's settings for a machine that runs a broker and
// nothing else.
const sysctls = `# Kernel settings of a machine that runs a Firn broker, written by "firn machine up".

# A broker that is swapped out misses its lease; its page cache is worth less than its heap.
# (Kafka's operators use 1: Confluent, "Running Kafka in Production", general OS settings.)
vm.swappiness = 1

# Dirty pages are written early and in small amounts: the journal's syncs wait behind them on the
# same disk. Bytes, and not shares of memory: what a disk writes in a second does not grow with it.
vm.dirty_background_bytes = 67108864
vm.dirty_bytes = 1073741824

# The metadata store maps its file, Go's heap its arenas, and each thread its stack.
# (The default of 65530 is what Kafka's operators raise first: Apache Kafka, "OS", vm.max_map_count.)
vm.max_map_count = 262144

# Connections that come all at once after a restart wait in these queues instead of being refused
# for a second. (Linux, networking/ip-sysctl; Kafka's own socket.listen.backlog.size is bounded by it.)
net.core.somaxconn = 4096
net.ipv4.tcp_max_syn_backlog = 4096

# A send buffer may grow to 16 MiB for consumers far away: the broker follows the distance of each
# connection by itself (docs/performance.md), within what the kernel lets it. The first two numbers
# of each three are the kernel's own.
net.core.wmem_max = 16777216
net.core.rmem_max = 16777216
net.ipv4.tcp_wmem = 4096 16384 16777216
net.ipv4.tcp_rmem = 4096 131072 16777216

# A connection that was quiet keeps its rate: fetches come in bursts. (Linux, networking/ip-sysctl.)
net.ipv4.tcp_slow_start_after_idle = 0
`

// users is what systemd-sysusers makes the broker's user of.
const users = "u firn - \"Firn broker\" " + DataDir + "\n"

// settings are the keys of firn.yaml that a machine sets, in their order.
type settings struct {
	Data       string            `yaml:"data"`
	NodeID     int32             `yaml:"node-id"`
	Rack       string            `yaml:"rack"`
	Deployment string            `yaml:"deployment"`
	Kafka      string            `yaml:"kafka"`
	Advertise  string            `yaml:"advertise"`
	HTTP       string            `yaml:"http"`
	Store      string            `yaml:"store"`
	Seeds      string            `yaml:"seeds,omitempty"`
	Peer       string            `yaml:"peer,omitempty"`
	Set        map[string]string `yaml:"set,omitempty"`
}

// brokerConfig is firn.yaml: what the machine file says in the words of firn
// start.
func brokerConfig(m *File, deployment string) ([]byte, error) {
	port := func(host string, n int) string { return net.JoinHostPort(host, strconv.Itoa(n)) }
	s := settings{
		Data: DataDir, NodeID: m.Broker, Rack: m.Rack, Deployment: deployment,
		Kafka: port("0.0.0.0", KafkaPort), Advertise: m.Address(), HTTP: port("0.0.0.0", HTTPPort),
		Store: m.Store, Set: m.Config,
	}
	var seeds []string
	for _, h := range m.Seeds {
		seeds = append(seeds, port(h, PeerPort))
	}
	s.Seeds = strings.Join(seeds, ",")
	if slices.Contains(m.Seeds, m.Host) {
		s.Peer = port(m.Host, PeerPort)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Written by \"firn machine up\" from %s: what is changed here is lost.\n", Path)
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(s); err != nil {
		return nil, fmt.Errorf("%s: %w", configPath, err)
	}
	return b.Bytes(), nil
}
