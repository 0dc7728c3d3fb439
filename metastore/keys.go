package metastore

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/firnlog/firn/record"
)

// Every key of the metastore, in etcd's flat byte order. Ids and numbers have
// a fixed width, and a name always ends its key, so that no key is a prefix of
// another kind's and a range over one topic never meets another's.
//
//	/firn/v1/image/broker/<id, 10 digits>                              registration, leased
//	/firn/v1/image/cluster                                             cluster id, written once
//	/firn/v1/image/config/<topic id, 32 hex digits>                    configs set by hand
//	/firn/v1/image/configs/<type, 3 digits>/<name>                     configs of brokers, client metrics, groups
//	/firn/v1/image/controller                                          who is controller, leased
//	/firn/v1/image/deployment/<id, 10 digits>                          what a broker runs as, leased with its registration
//	/firn/v1/image/partition/<topic id, 32 hex>/<partition, 10 digits>  place and leadership
//	/firn/v1/image/topic/<topic id, 32 hex>                            name, flags, partition count
//	/firn/v1/image/unfenced/<id, 10 digits>                            which registration of a broker was taken in
//	/firn/v1/join                                                      who becomes a member of etcd, leased (join.go)
//	/firn/v1/removed/<peer address>                                    a member that was taken out (join.go)
//	/firn/v1/name/<topic name>                                         topic id, for uniqueness
//	/firn/v1/producerid                                                first id not handed out
//	/firn/v1/tier/<topic id, 32 hex>/<partition, 10 digits>             tiering's pointer
//
// Only what is below imagePrefix is watched: pointers and producer ids change
// often and nobody needs them in the Image.
const (
	rootPrefix      = "/firn/v1/"
	imagePrefix     = rootPrefix + "image/"
	brokerPrefix    = imagePrefix + "broker/"
	clusterKey      = imagePrefix + "cluster"
	configPrefix    = imagePrefix + "config/"
	resourcePrefix  = imagePrefix + "configs/"
	controllerKey   = imagePrefix + "controller"
	deployedPrefix  = imagePrefix + "deployment/"
	partitionPrefix = imagePrefix + "partition/"
	topicPrefix     = imagePrefix + "topic/"
	unfencedPrefix  = imagePrefix + "unfenced/"
	namePrefix      = rootPrefix + "name/"
	producerIDKey   = rootPrefix + "producerid"
	tierPrefix      = rootPrefix + "tier/"
)

const (
	typeDigits = 3  // of a resource's type, decimal
	idDigits   = 32 // of a topic id, hexadecimal
	numDigits  = 10 // of a broker or partition number, decimal: enough for 2^31-1
)

func brokerKey(id record.BrokerID) string { return brokerPrefix + number(int32(id)) }

func unfencedKey(id record.BrokerID) string { return unfencedPrefix + number(int32(id)) }

func deploymentKey(id record.BrokerID) string { return deployedPrefix + number(int32(id)) }

func configKey(id record.TopicID) string { return configPrefix + id.Hex() }

func resourceKey(r ConfigResource) string { return resourcesOf(r.Type) + r.Name }

// resourcesOf is what all resourceKeys of a type begin with.
func resourcesOf(t ConfigType) string { return fmt.Sprintf("%s%03d/", resourcePrefix, t) }

func topicKey(id record.TopicID) string { return topicPrefix + id.Hex() }

func nameKey(name string) string { return namePrefix + name }

func partitionKey(id record.TopicID, p record.PartitionID) string {
	return partitionsOf(id) + number(int32(p))
}

// partitionsOf is the prefix of a topic's partition keys and of nothing else.
func partitionsOf(id record.TopicID) string { return partitionPrefix + id.Hex() + "/" }

// tierKeysOf is what all of a topic's tierKeys begin with.
func tierKeysOf(id record.TopicID) string { return tierPrefix + id.Hex() + "/" }

func tierKey(id record.TopicID, p record.PartitionID) string {
	return tierKeysOf(id) + number(int32(p))
}

// number writes n, which is never negative, with a fixed width, so that keys
// sort as numbers do.
func number(n int32) string {
	s := strconv.FormatInt(int64(n), 10)
	return "0000000000"[:numDigits-len(s)] + s
}

// kind says what a watched key is about.
type kind uint8

const (
	kindUnknown kind = iota // of a later version: ignored
	kindBroker
	kindCluster
	kindConfig
	kindController
	kindDeployment
	kindPartition
	kindResource
	kindTopic
	kindUnfenced
)

// imageKey is a parsed key below imagePrefix.
type imageKey struct {
	kind      kind
	broker    record.BrokerID
	topic     record.TopicID
	partition record.PartitionID
	resource  ConfigResource
}

// parseImageKey reads a key below imagePrefix. A kind that this version does
// not know is kindUnknown without an error; a known kind with a malformed rest
// is an error.
func parseImageKey(key string) (imageKey, error) {
	var k imageKey
	var ok bool
	switch {
	case key == clusterKey:
		return imageKey{kind: kindCluster}, nil
	case key == controllerKey:
		return imageKey{kind: kindController}, nil
	case strings.HasPrefix(key, brokerPrefix):
		var n int32
		k.kind = kindBroker
		n, ok = parseNumber(key[len(brokerPrefix):])
		k.broker = record.BrokerID(n)
	case strings.HasPrefix(key, unfencedPrefix):
		var n int32
		k.kind = kindUnfenced
		n, ok = parseNumber(key[len(unfencedPrefix):])
		k.broker = record.BrokerID(n)
	case strings.HasPrefix(key, deployedPrefix):
		var n int32
		k.kind = kindDeployment
		n, ok = parseNumber(key[len(deployedPrefix):])
		k.broker = record.BrokerID(n)
	case strings.HasPrefix(key, configPrefix):
		k.kind = kindConfig
		k.topic, ok = parseID(key[len(configPrefix):])
	case strings.HasPrefix(key, resourcePrefix):
		k.kind = kindResource
		k.resource, ok = parseResource(key[len(resourcePrefix):])
		if ok && !k.resource.Type.known() {
			return imageKey{}, nil // of a later version
		}
	case strings.HasPrefix(key, topicPrefix):
		k.kind = kindTopic
		k.topic, ok = parseID(key[len(topicPrefix):])
	case strings.HasPrefix(key, partitionPrefix):
		k.kind = kindPartition
		k.topic, k.partition, ok = parseTopicPartition(key[len(partitionPrefix):])
	default:
		return imageKey{}, nil
	}
	if !ok {
		return imageKey{}, fmt.Errorf("%w: key %q", ErrCorrupt, key)
	}
	return k, nil
}

func parseResource(s string) (r ConfigResource, ok bool) {
	if len(s) <= typeDigits || s[typeDigits] != '/' {
		return r, false
	}
	n, err := strconv.ParseUint(s[:typeDigits], 10, 7)
	return ConfigResource{ConfigType(n), s[typeDigits+1:]}, err == nil
}

// parseTierKey reads a key below tierPrefix.
func parseTierKey(key string) (record.TopicID, record.PartitionID, error) {
	rest, ok := strings.CutPrefix(key, tierPrefix)
	if ok {
		if id, p, ok := parseTopicPartition(rest); ok {
			return id, p, nil
		}
	}
	return record.TopicID{}, 0, fmt.Errorf("%w: key %q", ErrCorrupt, key)
}

func parseTopicPartition(s string) (id record.TopicID, p record.PartitionID, ok bool) {
	if len(s) != idDigits+1+numDigits || s[idDigits] != '/' {
		return id, 0, false
	}
	id, ok = parseID(s[:idDigits])
	if !ok {
		return id, 0, false
	}
	n, ok := parseNumber(s[idDigits+1:])
	return id, record.PartitionID(n), ok
}

// parseID accepts only the form that Hex writes: one key per id.
func parseID(s string) (id record.TopicID, ok bool) {
	if len(s) != idDigits {
		return id, false
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return id, false
	}
	return id, id.Hex() == s
}

func parseNumber(s string) (int32, bool) {
	if len(s) != numDigits {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 32)
	return int32(n), err == nil
}
