package podcni

func checkNetworkName(name string) error   { return nil }
func checkInterfaceName(name string) error { return nil }
func checkPluginType(typ string) error     { return nil }
