package main

import "encoding/json"

type object map[string]any

// config is the network's configuration: a dual-stack bridge, published ports
// and limits of bandwidth. Without nft the first does not masquerade, and there
// are no published ports.
func (d *demo) config() ([]byte, error) {
	first := object{
		"type": "bridge", "bridge": bridge, "isGateway": true, "hairpinMode": true,
		"ipam": object{
			"type": "host-local", "dataDir": d.reservations(),
			"ranges": [][]object{
				{{"subnet": "10.88.0.0/24"}},
				{{"subnet": "fd00:88::/64"}},
			},
			"routes": []object{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}},
		},
	}
	plugins := []object{first}
	if d.nft {
		first["ipMasq"], first["ipMasqBackend"] = true, "nftables"
		plugins = append(plugins, object{
			"type": "portmap", "backend": "nftables", "capabilities": object{"portMappings": true},
		})
	}
	plugins = append(plugins, object{"type": "bandwidth", "capabilities": object{"bandwidth": true}})
	return json.MarshalIndent(object{"cniVersion": "1.0.0", "name": network, "plugins": plugins}, "", "  ")
}
