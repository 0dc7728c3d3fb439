// Package metastore keeps the cluster's metadata in an embedded etcd: every
// key is in keys.go, changes are typed transactions, and readers see an
// immutable Image that a watch keeps up to date. Records, offsets of groups
// and objects do not belong here.
package metastore

import (
	"net"
	"strconv"

	"github.com/firnlog/firn/record"
)

// Image is the metadata at one etcd revision. It is never changed once
// published; readers may keep it.
type Image struct {
	Revision           int64 // of etcd
	ClusterID          string
	Controller         record.BrokerID // -1 when none
	ControllerRevision int64           // creation revision of the controller's key, 0 when none
	Brokers            map[record.BrokerID]Broker
	Unfenced           map[record.BrokerID]Unfenced
	Deployments        map[record.BrokerID]string // what registered brokers run as, of those that were told (Config.Deployment)
	Topics             map[string]*Topic
	TopicIDs           map[record.TopicID]*Topic
	Configs            map[ConfigResource]map[string]string // of what is no topic; none of them is empty
	Partitions         int                                  // of all topics
}

// Eligible says whether a broker may lead partitions and enter ISRs: it is
// registered, and the controller has taken in this registration of it.
func (img *Image) Eligible(id record.BrokerID) bool {
	b, registered := img.Brokers[id]
	return registered && img.Unfenced[id].Epoch == b.Epoch
}

// Stays says whether a broker is eligible and does not leave: others may count
// on it.
func (img *Image) Stays(id record.BrokerID) bool {
	return img.Eligible(id) && !img.Brokers[id].Leaving
}

// Broker is a registered broker; its key has a lease.
type Broker struct {
	ID        record.BrokerID
	Host      string // advertised
	Port      int32
	HTTP      string // host:port of the HTTP listener
	Rack      string // "" for none
	Epoch     int64  // creation revision of the registration
	StartedMs int64
	Disk      string // id of its data folder, a UUID's text; "" from a version that had none
	Cache     string // id of what its page cache may hold, a UUID's text: another one since the machine was restarted, and what was not synced is gone
	Leaving   bool   // it wants to stop and gives its leaderships away
	Peer      string // host:port where its etcd member is reached by others, "" when it has none
}

// Addr is where clients and other brokers reach it, host:port.
func (b Broker) Addr() string { return net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))) }

// Unfenced says which registration of a broker the controller has taken in,
// after the partition records that follow from it were written. It stays when
// the registration goes.
type Unfenced struct {
	Epoch int64  // of the registration
	Disk  string // that the registration named
	Cache string // likewise
}

// Topic is one topic. Partitions[i].ID == i.
type Topic struct {
	Name       string
	ID         record.TopicID
	Internal   bool // __consumer_offsets and the like
	Partitions []Partition
	Configs    map[string]string // set by hand; defaults are not listed
	CreatedMs  int64
	Revision   int64 // of the last change to the topic, its configs or partitions
}

// Partition is one partition's record: its place and leadership.
type Partition struct {
	ID             record.PartitionID
	Leader         record.BrokerID // -1 when none
	Epoch          record.Epoch    // of the leader
	PartitionEpoch int32           // counts changes of this record
	Replicas       []record.BrokerID
	ISR            []record.BrokerID
	ELR            []record.BrokerID // eligible leader replicas outside of the ISR (KIP-966)
	Adding         []record.BrokerID // of Replicas, those that a reassignment adds
	Removing       []record.BrokerID // of Replicas, those that a reassignment takes out
	Revision       int64             // of the record's last change
}
