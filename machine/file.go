// Package machine is what a virtual machine that runs a broker does for
// itself: it reads who it is, prepares disks, kernel and units, looks out for
// the cloud's notices, and takes its turn when another binary or another
// machine is wanted. docs/deploy.md is its design. What a cluster's state means
// belongs to broker/health; flags and printing belong to cmd/firn. The store is
// given to it opened.
package machine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/firnlog/firn/objectstore"
)

// Path is where the machine file lies.
const Path = "/etc/firn/machine.json"

// The clouds that a machine file may name.
const (
	AWS = "aws"
	GCP = "gcp"
)

// The disks that a machine file may ask for.
const (
	LocalDisk   = "local"   // the machine's own NVMe disks, whose data goes with it
	NetworkDisk = "network" // the one disk of the cloud that is attached for the data
)

// Ports of every broker on a machine.
const (
	KafkaPort = 9092
	HTTPPort  = 9644
	PeerPort  = 2380 // etcd's members among themselves; their clients use the port below
)

// maxFile bounds a machine or fleet file, in bytes. User data may have 16 KiB
// on AWS, and a fleet file of a thousand brokers has 40 KiB.
const maxFile = 1 << 20

// File is the machine file: who this broker is and where the store is. It comes
// with the machine's user data and does not change while the machine lives.
type File struct {
	// Cluster is the cluster's name: 1 to 20 of a-z, 0-9 and -, beginning with
	// a letter.
	Cluster string `json:"cluster"`
	// Cloud is AWS or GCP: whose metadata and disks there are.
	Cloud string `json:"cloud"`
	// Broker is the broker's number, 1 or more.
	Broker int32 `json:"broker"`
	// Machine is a short name of what the machine is made of (type, image,
	// disks, this file without its name): where the fleet file has another one
	// for the broker, the machine is to be replaced. 1 to 32 of a-z, 0-9 and -.
	Machine string `json:"machine"`
	// Rack is the zone's name.
	Rack string `json:"rack"`
	// Host is the name or address by which brokers and clients of the network
	// reach the broker; it outlives the machine.
	Host string `json:"host"`
	// Advertise is the host:port that clients and brokers are told; "" is Host
	// and KafkaPort.
	Advertise string `json:"advertise,omitempty"`
	// Seeds are the hosts of the brokers that are members of etcd: one, three
	// or five. A broker whose Host is among them is one. Empty is a broker on
	// its own.
	Seeds []string `json:"seeds"`
	// Store is the object store's URL, as of firn start --store. On AWS it
	// names the region, for the script that fetches the first binary.
	Store string `json:"store"`
	// Disk is LocalDisk or NetworkDisk.
	Disk string `json:"disk"`
	// Config are broker configs under Kafka's names, as of firn start --set.
	Config map[string]string `json:"config,omitempty"`
}

// Address is the host:port at which clients and brokers reach this broker.
func (m *File) Address() string {
	if m.Advertise != "" {
		return m.Advertise
	}
	return net.JoinHostPort(m.Host, strconv.Itoa(KafkaPort))
}

var (
	clusterName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,19}$`)
	machineName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
	hostName    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
)

// FieldError says which field of a machine or fleet file is wrong, and what to
// write instead.
type FieldError struct {
	File   string // "machine file" or "fleet file"
	Field  string // as in JSON
	Wrong  string // what is wrong with it
	Remedy string // what to do
}

func (e *FieldError) Error() string {
	return fmt.Sprintf("%s: field %q: %s; %s", e.File, e.Field, e.Wrong, e.Remedy)
}

// ReadFile reads the machine file at path. Its errors name the file, and the
// field where one is wrong (FieldError).
func ReadFile(path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, fmt.Errorf("machine file: %w; it comes with the machine's user data, see docs/deploy.md", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return File{}, fmt.Errorf("machine file: %w", err)
	}
	m, err := ParseFile(data)
	if err != nil {
		return File{}, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// ParseFile reads a machine file. A field that is not known is an error.
func ParseFile(data []byte) (File, error) {
	var m File
	if err := decode("machine file", data, &m); err != nil {
		return File{}, err
	}
	return m, m.check()
}

func (m *File) check() error {
	bad := func(field, remedy, wrong string, args ...any) error {
		return &FieldError{"machine file", field, fmt.Sprintf(wrong, args...), remedy}
	}
	switch {
	case !clusterName.MatchString(m.Cluster):
		return bad("cluster", "give 1 to 20 of a-z, 0-9 and -, beginning with a letter", "%q is no cluster's name", m.Cluster)
	case m.Cloud != AWS && m.Cloud != GCP:
		return bad("cloud", `give "aws" or "gcp"`, "%q is no cloud that is known", m.Cloud)
	case m.Broker < 1:
		return bad("broker", "give its number, 1 or more", "%d is no broker's number", m.Broker)
	case !machineName.MatchString(m.Machine):
		return bad("machine", "give 1 to 32 of a-z, 0-9 and -, another one whenever the machine is to be replaced", "%q is no machine's name", m.Machine)
	case m.Rack == "" || strings.ContainsAny(m.Rack, " \t\r\n"):
		return bad("rack", "give the zone's name", "%q is no zone", m.Rack)
	case !validHost(m.Host):
		return bad("host", "give the name that the broker is reached by, without a port", "%q is no host", m.Host)
	case m.Disk != LocalDisk && m.Disk != NetworkDisk:
		return bad("disk", `give "local" or "network"`, "%q is no kind of disk", m.Disk)
	}
	if m.Advertise != "" {
		if host, port, err := net.SplitHostPort(m.Advertise); err != nil || !validHost(host) || !validPort(port) {
			return bad("advertise", "give HOST:PORT, or leave it out", "%q is no address", m.Advertise)
		}
	}
	if n := len(m.Seeds); n != 0 && n != 1 && n != 3 && n != 5 {
		return bad("seeds", "give the hosts of one, three or five brokers", "%d members of etcd are none that agree well", n)
	}
	for i, s := range m.Seeds {
		switch {
		case !validHost(s):
			return bad("seeds", "give hosts without ports", "%q is no host", s)
		case slices.Contains(m.Seeds[:i], s):
			return bad("seeds", "name each broker once", "%q is there twice", s)
		}
	}
	if err := m.checkStore(); err != nil {
		return err
	}
	for name := range m.Config {
		if name == "" || strings.ContainsAny(name, "= \t\r\n") {
			return bad("config", `give configs under Kafka's names, as in "num.partitions": "6"`, "%q is no config's name", name)
		}
	}
	return nil
}

func (m *File) checkStore() error {
	u, err := objectstore.ParseURL(m.Store)
	switch {
	case err != nil:
		return &FieldError{"machine file", "store", err.Error(), "give the bucket's URL as for firn start --store"}
	case m.Cloud == AWS && (u.Scheme != "s3" || u.Region == ""):
		return &FieldError{"machine file", "store", fmt.Sprintf("%q is no bucket on AWS with its region", m.Store), "give s3://BUCKET/PREFIX?region=REGION"}
	case m.Cloud == GCP && u.Scheme != "gs":
		return &FieldError{"machine file", "store", fmt.Sprintf("%q is no bucket on Google Cloud", m.Store), "give gs://BUCKET/PREFIX"}
	}
	return nil
}

func validHost(s string) bool { return hostName.MatchString(s) || net.ParseIP(s) != nil }

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// decode reads one JSON value and nothing after it. Fields that are not known,
// and values of another type, are errors that name the field.
func decode(file string, data []byte, into any) error {
	if len(data) > maxFile {
		return fmt.Errorf("%s: larger than %d bytes: it is something else", file, maxFile)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: something follows after the JSON object, at byte %d; leave one object", file, d.InputOffset())
		}
		return nil
	}
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return &FieldError{file, t.Field, fmt.Sprintf("a %s stands there", t.Value), fmt.Sprintf("give a value of type %s", t.Type)}
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return &FieldError{file, strings.Trim(name, `"`), "no such field is known", "leave it out, or use the firn that knows it"}
	}
	return fmt.Errorf("%s: no JSON object: %w", file, err)
}
